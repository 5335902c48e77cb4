"""The servers that are measured against each other, a file each: every one answers with the same fitted pipeline."""
