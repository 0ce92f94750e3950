"""The pages: the only room that knows gradio. Handlers are thin; what a person sees is made by pure functions in `html/`."""
