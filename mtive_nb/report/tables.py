"""Numbers and texts as the page's tables show them."""

DECIMALS = {
    "points 0-100": 1, "points": 1, "fraction": 3, "share": 3, "correlation": 3, "cosine": 3, "f1": 3, "s": 1,
}  # fmt: skip  # by unit


def number(value: float, unit: str = "") -> str:
    """Format a number for a table: its unit's decimals, else four significant digits; commas between thousands."""
    if unit in DECIMALS:
        return f"{value:,.{DECIMALS[unit]}f}"
    if float(value).is_integer() and abs(value) < 1e9:
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"


def short(text: str) -> str:
    """Shorten a CSV cell for reading: round floats, cut long texts."""
    try:
        return number(float(text)) if "." in text or "e" in text.lower() else text
    except (ValueError, OverflowError):
        return text if len(text) <= 300 else text[:300] + " …"
