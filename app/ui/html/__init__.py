"""Pure functions from records to markup. Every text that came from outside is escaped here, and nothing here is async,
knows gradio or reads a file. Buttons and links carry `data-act`; `assets/studio.js` relays a click on them to a handler."""
