"""Who sealed a model: a signature in the OpenSSF model-signing format, which its command line verifies, too."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, IntegrityError

SIGNATURE = "model.sig"  # beside the sealed files: the manifest does not list it, so that the digest is the content's
_NOT_SEALED = (SIGNATURE, "MLmodel")
_VARIABLE = "env:"

# model_signing is imported inside the functions: only who signs or verifies needs it.


def expect_signing_key(settings: Settings, demanded: bool = False) -> None:
    """Raise ConfigurationError if versions must be signed, and there is no key to sign with.

    demanded: by the use case; by the settings they are where these name a public key.
    """
    if demanded and not settings.model_signing_public_key:
        raise ConfigurationError(
            "The use case demands signed models, and the setting 'model_signing_public_key' is not set. Give it, and "
            "'model_signing_key' where models are trained."
        )
    if settings.model_signing_public_key and not settings.model_signing_key:
        raise ConfigurationError(
            f"Setting 'model_signing_public_key' is {settings.model_signing_public_key}, so no version without a "
            f"signature is used, but 'model_signing_key' is not set. Give the private key where models are trained."
        )


def sign(settings: Settings, folder: Path) -> None:
    """Put the signature beside the files of a sealed model; without a key in the settings, do nothing.

    Raises ConfigurationError if the key cannot be read, or if what it signs does not verify with the public key.
    """
    if not settings.model_signing_key:
        return
    from model_signing import hashing, signing

    hashed = hashing.Config().set_ignored_paths(paths=_NOT_SEALED, ignore_git_paths=False)
    with TemporaryDirectory() as private:  # which nobody else may open: the library reads keys from files only
        try:
            key = _key_file(settings.model_signing_key, Path(private))
            signer = signing.Config().set_hashing_config(hashed).use_elliptic_key_signer(private_key=key)
        except (OSError, ValueError, TypeError, AttributeError) as error:  # what the library raises for other keys
            raise ConfigurationError(
                f"Setting 'model_signing_key' is {settings.model_signing_key}, no EC private key (P-256, "
                f"P-384 or P-521, PEM, without a password): {error}. Make one with: openssl ecparam -name prime256v1 "
                f"-genkey -noout"
            ) from None
        signer.sign(folder, folder / SIGNATURE)
    try:
        expect_signature(settings, folder)
    except IntegrityError as error:
        raise ConfigurationError(f"model_signing_public_key is not of model_signing_key: {error}") from error


def expect_signature(settings: Settings, folder: Path) -> None:
    """Raise IntegrityError if the settings name a public key and the folder has no signature by it over its files."""
    if not settings.model_signing_public_key:
        return
    from model_signing import hashing, verifying

    if not (folder / SIGNATURE).is_file():
        raise IntegrityError(
            f"The sealed model in {folder} has no signature ({SIGNATURE}), and 'model_signing_public_key' asks for "
            f"one. Train it again where 'model_signing_key' is set."
        )
    key = Path(settings.model_signing_public_key)
    try:
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=key)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"Setting 'model_signing_public_key' is {key}, which is no EC public key: {error}"
        ) from None
    hashed = hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)
    try:
        verifier.set_hashing_config(hashed).verify(folder, folder / SIGNATURE)
    except Exception as error:  # the library raises whatever a malformed signature makes it raise
        raise IntegrityError(
            f"The signature of the sealed model in {folder} does not hold for {key}: "
            f"{str(error) or type(error).__name__}. It is by another key or of other files; find out who changed them."
        ) from error


def is_signed(settings: Settings, folder: Path) -> bool:
    """Whether the settings name a public key, and the folder has a signature by it that holds."""
    try:
        expect_demanded_signature(settings, folder)
    except (IntegrityError, ConfigurationError):
        return False
    return True


def expect_demanded_signature(settings: Settings, folder: Path) -> None:
    """As `expect_signature`, where a use case demands it. Raises ConfigurationError if the settings name no key."""
    if not settings.model_signing_public_key:
        raise ConfigurationError(
            "The use case demands signed models, and the setting 'model_signing_public_key' is not set, so nothing can "
            "be checked. Give it to every node that serves."
        )
    expect_signature(settings, folder)


def _key_file(reference: str, folder: Path) -> Path:
    if not reference.startswith(_VARIABLE):
        return Path(reference)
    text = os.environ.get(reference.removeprefix(_VARIABLE), "")
    if not text:
        raise ValueError("that variable is not set")
    file = folder / "key.pem"
    file.write_text(text)
    return file
