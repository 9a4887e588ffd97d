"""Which texts Postgres can hold, and how much of a value an error message shows."""


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
