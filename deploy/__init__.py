"""What makes Headrace into things to install, and what runs beside it: packages, an image, manifests, a dashboard, alerts."""
