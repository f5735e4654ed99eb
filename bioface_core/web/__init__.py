"""What do our pages have in common? Their look (style.css), and a door that only whoever started them can open."""

from pathlib import Path

STYLE = Path(__file__).parent / "style.css"

__all__ = ["STYLE"]
