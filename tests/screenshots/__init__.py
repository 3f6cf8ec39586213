"""Pictures of the live page, and what it costs."""
