"""What a run leaves to be read: report.html, model-card.md, and the report's charts as files."""
