"""Who is told how calls went, and what is counted."""
