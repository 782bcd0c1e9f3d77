"""What the HTML pages of octprep share: the Jinja environment, the style sheet, charts, pictures and safe text."""
