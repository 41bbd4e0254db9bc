"""The demo's models, the recipes that merge them, and the demo itself."""
