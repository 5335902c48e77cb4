"""A pair of keys by which a test signs models."""

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mlops_ray.config import Settings


def with_signing_keys(settings: Settings, folder: Path) -> Settings:
    """The settings with a new key, which lies in `folder` in place of an older one, and its public key."""
    folder.mkdir(exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private, public = folder / "key.pem", folder / "public.pem"
    private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return settings.model_copy(
        update={"model_signing_key": str(private), "model_signing_public_key": str(public)},
    )
