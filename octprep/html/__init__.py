"""What every page shares: the templates' environment, the style sheet, charts, pictures and safe text."""
