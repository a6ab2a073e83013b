"""Remove Thebe, which jupyter-book adds to every page and which would fetch its script from another host."""


def remove_thebe(app, page: str, template: str, context: dict, doctree) -> None:
    for kind in ("script_files", "css_files"):
        context[kind] = [file for file in context[kind] if not of_thebe(file)]


def of_thebe(file) -> bool:
    return "thebe" in f"{file.filename} {file.attributes.get('body')}".lower()


def setup(app) -> dict:
    app.connect("html-page-context", remove_thebe)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
