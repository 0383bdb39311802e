"""Self-contained HTML pages: one template, one stylesheet, figures as data URIs."""
