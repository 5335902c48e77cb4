"""A signed bundle gives back what was packed, and nothing that anybody else has touched."""

import io
import stat
import zipfile
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mlops_ray.errors import IntegrityError
from mlops_ray.governance.signing_keys import Signer
from mlops_ray.registry import signed_bundle
from mlops_ray.registry.signed_bundle import pack, unpack

FILES = {"bundle.json": b"{}", "model/model.onnx": b"\x00" * 40, "evidence/reports/ab12": b"found"}


def signer(id: str = "0" * 16) -> Signer:
    return Signer(id, Ed25519PrivateKey.generate())


def signed(ours: Signer, body: bytes) -> bytes:
    """A bundle whose signature holds, whatever its archive is."""
    signature = ours.sign(b"mlops-ray-bundle 1\n" + body).hex()
    return f"mlops-ray-bundle 1 {ours.id} {signature}\n".encode() + body


def archive(write: Callable[[zipfile.ZipFile], None]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        write(file)
    return made.getvalue()


def test_what_was_packed_comes_back_and_other_tools_open_it() -> None:
    ours = signer()
    bundle = pack(FILES, ours)
    assert unpack(bundle, ours.public()) == FILES
    assert bundle == pack(dict(reversed(FILES.items())), ours)
    with zipfile.ZipFile(io.BytesIO(bundle)) as opened:
        assert opened.read("evidence/reports/ab12") == b"found"


def test_a_change_of_any_byte_and_any_end_is_found() -> None:
    ours = signer()
    bundle = pack(FILES, ours)
    for place in range(len(bundle)):
        for flip in (0x01, 0x20, 0x80):
            changed = bundle[:place] + bytes([bundle[place] ^ flip]) + bundle[place + 1 :]
            with pytest.raises(IntegrityError):
                unpack(changed, ours.public())
    for length in range(len(bundle)):
        with pytest.raises(IntegrityError):
            unpack(bundle[:length], ours.public())
    with pytest.raises(IntegrityError):
        unpack(bundle + b"\n", ours.public())


def test_only_a_trusted_key_counts() -> None:
    ours, other = signer(), signer("f" * 16)
    with pytest.raises(IntegrityError, match=f"names the key {'f' * 16}.*trusted are {'0' * 16}"):
        unpack(pack(FILES, other), ours.public())
    claimed = Signer(ours.id, other.private)
    with pytest.raises(IntegrityError, match="signature does not hold"):
        unpack(pack(FILES, claimed), ours.public())
    with pytest.raises(IntegrityError, match="no signed bundle"):
        unpack(archive(lambda file: file.writestr("bundle.json", "{}")), ours.public())
    for signature in (b"the evidence's", b"1\nmlops"):  # what the key has signed elsewhere is no bundle
        head = f"mlops-ray-bundle 1 {ours.id} {ours.sign(signature).hex()}\n".encode()
        with pytest.raises(IntegrityError, match="signature does not hold"):
            unpack(head + signature, ours.public())


def test_another_format_says_which_release_reads_it() -> None:
    ours = signer()
    with pytest.raises(IntegrityError, match="format 2, and this release reads 1"):
        unpack(pack(FILES, ours).replace(b"bundle 1", b"bundle 2", 1), ours.public())


@pytest.mark.parametrize(
    "name",
    ["../out", "model/../../out", "/etc/passwd", "C:\\out", "model\\..\\out", ".hidden", "a//b", "a/", "a\x1b", ""],
)
def test_no_file_leaves_its_folder_even_with_a_trusted_signature(name: str) -> None:
    ours = signer()
    with pytest.raises(IntegrityError):
        pack({name: b""}, ours)
    body = archive(lambda file: file.writestr(zipfile.ZipInfo(name), b"x"))
    with pytest.raises(IntegrityError):
        unpack(signed(ours, body), ours.public())


def test_no_bomb_link_or_second_file_of_a_name_is_unpacked() -> None:
    ours = signer()

    def compressed(file: zipfile.ZipFile) -> None:
        file.writestr("bomb", b"0" * 10_000_000, zipfile.ZIP_DEFLATED)

    def link(file: zipfile.ZipFile) -> None:
        entry = zipfile.ZipInfo("link")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(entry, "/etc/passwd")

    for write, said in ((compressed, "more than it is large"), (link, "no file")):
        with pytest.raises(IntegrityError, match=said):
            unpack(signed(ours, archive(write)), ours.public())
    twice = archive(lambda file: (file.writestr("a", "1"), file.writestr("b", "2"))[0]).replace(b"b", b"a")  # type: ignore[func-returns-value]
    with pytest.raises(IntegrityError):
        unpack(signed(ours, twice), ours.public())
    with pytest.raises(IntegrityError, match="cannot be read"):
        unpack(signed(ours, b"no archive"), ours.public())


def test_what_is_too_large_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signed_bundle, "LARGEST_BYTES", 100)
    with pytest.raises(Exception, match="are the most that an import takes"):
        pack(FILES, signer())
