"""A page in the browser to play with a trained model: what it sees (`viewer`), what it computes, and the page itself
(`page`), which alone needs Gradio."""
