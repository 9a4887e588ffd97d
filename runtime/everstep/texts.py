"""Which texts Postgres can hold."""


def storable(text: str) -> bool:
    """Whether a text column takes it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text
