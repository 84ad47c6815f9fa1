"""Numbers in two alphabets of digits: two languages in which every problem can be put and thought about."""

LATIN, CHINESE = "0123456789", "〇一二三四五六七八九"
ALPHABETS = (LATIN, CHINESE)


def write(number: int, numerals: str = LATIN, *, width: int = 1) -> str:
    """A number of zero or more, digit by digit, with zeros in front up to ``width`` digits."""
    return f"{number:0{width}d}".translate(str.maketrans(LATIN, numerals))


def read(text: str, *, longest: int = 18) -> int | None:
    """The number that a row of digits of either alphabet says, mixed or not; None for anything else."""
    digits = [alphabet.find(character) for character in text[: longest + 1] for alphabet in ALPHABETS]
    found = [max(pair) for pair in zip(digits[::2], digits[1::2], strict=True)]
    if not 0 < len(found) <= longest or min(found) < 0:
        return None
    number = 0
    for digit in found:
        number = 10 * number + digit
    return number


def other(numerals: str) -> str:
    """The other alphabet."""
    return CHINESE if numerals == LATIN else LATIN
