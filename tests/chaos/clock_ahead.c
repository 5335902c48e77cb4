/* A wall clock that is ahead by the seconds that stand in the file CLOCK_AHEAD, a 64-bit number, while all runs:
 *
 *     gcc -shared -fPIC -O2 -o clock_ahead.so clock_ahead.c -ldl; LD_PRELOAD=./clock_ahead.so CLOCK_AHEAD=file date
 *
 * The monotonic clock is left alone. Debian's faketime 0.9.10 does not do that for Python 3.11: with
 * FAKETIME_DONT_FAKE_MONOTONIC time.sleep is EINVAL, and without it a wait with a limit hangs. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t nothing = 0, *ahead = &nothing;
static int (*cond_timedwait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
static int (*semaphore_timedwait)(sem_t *, const struct timespec *);

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("CLOCK_AHEAD");
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  void *found = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *ahead, PROT_READ, MAP_SHARED, file, 0);
  if (found != MAP_FAILED) ahead = found;
  if (file >= 0) close(file);
  /* the plain name would be that of a condition of another layout */
  cond_timedwait = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
  semaphore_timedwait = dlsym(RTLD_NEXT, "sem_timedwait");
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  int failed = syscall(SYS_clock_gettime, clock, now);
  if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *ahead;
  return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  struct timespec found;
  (void)zone;
  if (clock_gettime(CLOCK_REALTIME, &found)) return -1;
  now->tv_sec = found.tv_sec;
  now->tv_usec = found.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *into) {
  struct timespec found;
  clock_gettime(CLOCK_REALTIME, &found);
  if (into) *into = found.tv_sec;
  return found.tv_sec;
}

/* The kernel has the right time: what a caller waits for by ours comes so much earlier. A moment by the monotonic clock
 * is a small number. */
static struct timespec right(const struct timespec *until) {
  struct timespec found = *until;
  if (found.tv_sec > 1000000000) found.tv_sec -= *ahead;
  return found;
}

int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *until) {
  struct timespec found = right(until);
  return cond_timedwait(condition, mutex, &found);
}

int sem_timedwait(sem_t *semaphore, const struct timespec *until) {
  struct timespec found = right(until);
  return semaphore_timedwait(semaphore, &found);
}
