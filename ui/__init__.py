"""The page: it writes recipes, shows plans, watches merges, and lets people talk to the result.

Only this package and `app.py` know Gradio and `spaces`.
"""
