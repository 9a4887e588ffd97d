"""Which texts Postgres can hold, and how much of a value an error message shows."""

from everstep.errors import UsageError

LONGEST_BYTES = 512


def storable(text: str) -> bool:
    """Whether a text column takes it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def brief(value: object, most: int = 120) -> str:
    """A value as an error message shows it: the beginning of it, and of JSON the text."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}…"


def checked(text: str, what: str) -> str:
    """A name as it is. Raises UsageError unless it can be stored: in a batch it would hold up those of others."""
    if not isinstance(text, str) or not storable(text) or len(text.encode()) > LONGEST_BYTES:
        raise UsageError(
            f"{what} is a text of at most {LONGEST_BYTES} bytes without NUL, not {brief(text)}"
        )
    return text


def chosen_name(name: str, what: str) -> str:
    """The name, if it is one that can be recorded: of a workflow, a step, a transaction. Raises UsageError."""
    if not isinstance(name, str) or not name.isprintable() or not 1 <= len(name.encode()) <= 200:
        raise UsageError(f"a {what} has a printable name of 1 to 200 bytes, not {brief(name)}")
    return name
