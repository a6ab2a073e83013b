"""Leave out Thebe, which jupyter-book adds to every page: it would fetch its script from another host."""


def without_thebe(app, page: str, template: str, context: dict, doctree) -> None:
    for files in ("script_files", "css_files"):
        context[files] = [file for file in context[files] if "thebe" not in f"{file.filename} {file.attributes.get('body')}".lower()]


def setup(app) -> dict:
    app.connect("html-page-context", without_thebe)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
