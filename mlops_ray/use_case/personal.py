"""Personal: which columns seem to tell of a person, by their names."""

import re

_NAMES = re.compile(r"mail|phone|first_?name|last_?name|surname|full_?name|address|ssn|iban|passport", re.IGNORECASE)


def tells_of_a_person(column: str) -> bool:
    """Whether a column has a name as those have that tell of a person; a guess, to be looked at."""
    return _NAMES.search(column) is not None
