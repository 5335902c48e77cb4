"""Files as they come, one for each kind of label, which nobody has described to `init`."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class DirtyFile:
    """kind: what the task of the written use case must be. answer: what a prediction must have."""

    name: str
    label: str
    time: str
    kind: str
    answer: str
    write: Callable[[Path, int], None]


def _write_contracts(file: Path, rows: int) -> None:
    """Yes or no. Semicolons, Windows' encoding and ends of lines, quoted notes with separators, two forms of dates,
    decimal commas with points between thousands, words and a currency among them, names with spaces at their ends."""
    random = np.random.default_rng(1)
    lines = ["Kundennr;Registriert am;Stadt;Umsatz €;Rabatt;Tarif;letzter Kontakt;E-Mail;Bemerkung;gekündigt"]
    for number in range(rows):
        day = date(2023, 1, 1) + timedelta(days=700 * number // rows + int(random.integers(0, 10)))
        amount, tariff = random.gamma(2, 200), str(random.choice(["Basis", "Plus", "Premium", " Plus ", ""]))
        left = random.random() < (0.45 if amount < 200 else 0.2) + (0.2 if tariff == "Basis" else 0)
        written = f"{amount:,.2f}".translate(str.maketrans(",.", ".,"))
        cells = [
            f"K{number:06}",
            f"{day:%d.%m.%Y}" if number % 3 else f"{day}",
            str(random.choice(["Köln", "München", "Düsseldorf", "Zürich"])),
            ["", "n/a", "unbekannt", "-"][number % 4] if number % 20 == 0 else written,
            f"{written} €" if number % 90 == 0 else f"{random.integers(0, 900) / 100:.2f}".replace(".", ","),
            tariff,
            f"{day - timedelta(days=int(random.integers(0, 99))):%d.%m.%Y}",
            f"a{number}@example.org",
            f'"sagte ""ja; vielleicht"" {number}"',
            "ja" if left else "nein",
        ]
        lines.append(";".join(cells))
    file.write_bytes(("\r\n".join(lines) + "\r\n").encode("cp1252"))


def _write_listings(file: Path, rows: int) -> None:
    """A number. Tabs, a byte order mark, three forms of moments, American dates, units and words among numbers, labels
    that are missing or words."""
    random = np.random.default_rng(2)
    lines = ["listing_id\tlisted at\trooms\tarea\tdistrict\tlast sold\tprice"]
    for number in range(rows):
        at = datetime(2024, 1, 1) + timedelta(minutes=26 * number + int(random.integers(0, 60)))
        form = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M")[number % 3]
        area, district = random.gamma(4, 25), str(random.choice(["north", "South", "south ", "east", "", "west"]))
        price = area * 30 * (1.3 if district == "north" else 1) + random.normal(0, 400)
        cells = [
            f"{number}",
            f"{at:{form}}",
            ("two", "?", "", "studio")[number // 30 % 4] if number % 30 == 0 else f"{max(1, round(area / 25))}",
            "" if number % 25 == 0 else "unknown" if number % 25 == 1 else f"{area:.1f}",
            district,
            f"{at - timedelta(days=int(random.integers(100, 3000))):%m/%d/%Y}",
            ("", "on request", "NULL")[number // 50 % 3] if number % 50 == 0 else f"{price:.0f}",
        ]
        lines.append("\t".join(cells))
    file.write_bytes(("\ufeff" + "\n".join(lines)).encode())


def _write_tickets(file: Path, rows: int) -> None:
    """One of three names, in several spellings and sometimes missing; cells with commas, ages in words."""
    random = np.random.default_rng(3)
    lines = ["ticket,opened,channel,words,agent age,tags,priority"]
    for number in range(rows):
        at, words = datetime(2025, 3, 1) + timedelta(minutes=9 * number), random.gamma(2, 40)
        channel = str(random.choice(["mail", "phone", "chat", "Chat", "MAIL"]))
        urgency = words / 80 + (1 if channel == "phone" else 0) + random.normal(0, 0.8)
        priority = "low" if urgency < 0.8 else "medium" if urgency < 1.8 else "high"
        cells = [
            f"T-{number}",
            f"{at:%Y-%m-%d %H:%M}",
            channel,
            f"{words:.0f}",
            str(random.choice(["23", "41", "n/a", "fifty", ""])),
            f'"a,b{random.integers(1, 9)}"',
            ("High", "LOW", "")[number // 90 % 3] if number % 90 == 0 else priority,
        ]
        lines.append(",".join(cells))
    file.write_text("\n".join(lines) + "\n")


DIRTY_FILES = (
    DirtyFile("contracts", "gekündigt", "Registriert am", "", "probability", _write_contracts),
    DirtyFile("listings", "price", "listed at", "Regression", "prediction", _write_listings),
    DirtyFile("tickets", "priority", "opened", "MultiClass", "probabilities", _write_tickets),
)
