"""A page in the browser to try a trained network on; needs gradio (``pip install '.[demo]'``)."""

from __future__ import annotations

import html
import os
from typing import Any

from attnseg.core.errors import UserError, check
from attnseg.infer import Predictor
from attnseg.recipe.demo import Seen, attends

USUAL_OPACITY = 0.6
NO_ATTENTION = "This network has no attention between pixels to show."
INVITATION = "Click into the prediction to see where the network looks for that pixel."
# The browser may load nothing from elsewhere: images stay on this machine, and a page behind a
# firewall does not wait for fonts.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; worker-src 'self' "
    "blob:; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' ws: blob: data:; media-src 'self' blob:"
)
STYLE = """
table.classes { border-collapse: collapse; width: 100%; margin-top: 8px; }
table.classes, table.classes tr, table.classes th, table.classes td { border: none !important; }
table.classes th, table.classes td { padding: 2px 8px !important; white-space: nowrap; }
table.classes th { text-align: left; font-weight: 600; }
table.classes .number { text-align: right; font-variant-numeric: tabular-nums; }
table.classes td.bar { width: 60%; }
table.classes td.bar div { height: 12px; border-radius: 2px; min-width: 1px;
  box-shadow: inset 0 0 0 1px rgba(128, 128, 128, 0.5); }
table.classes .swatch { display: inline-block; width: 12px; height: 12px; margin-right: 8px;
  border: 1px solid #777; vertical-align: -1px; }
"""
HEIGHT = 380  # pixels of a picture on the page
CLASSES = 30  # named at the top at most


def load_gradio() -> Any:
    """The module gradio, told to keep to itself.

    Raises:
      UserError: it is not installed.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import gradio
    except ImportError as error:
        raise UserError("the demo page needs gradio: pip install 'attnseg[demo]'.") from error
    return gradio


def build_page(predictor: Predictor, title: str):
    """The page as gradio's Blocks: image in; classes, their shares and attention out."""
    gr = load_gradio()
    looks = attends(predictor)
    info = predictor.info

    def on_image(path: str | None, opacity: float):
        nothing = gr.update(choices=[], value=None, visible=False)
        if path is None:
            return None, None, "", INVITATION if looks else NO_ATTENTION, nothing, None
        try:
            seen = Seen(predictor, path)
        except UserError as error:
            raise gr.Error(str(error).replace(str(path), os.path.basename(path))) from error
        told = INVITATION if looks else NO_ATTENTION
        return seen, seen.picture(opacity), seen.table(), told, nothing, None

    def on_opacity(seen: Seen | None, opacity: float):
        return None if seen is None else seen.picture(opacity)

    def on_pixel(seen: Seen | None, layer: str | None, event):
        if seen is None or not looks:
            return NO_ATTENTION, gr.update(), None
        x, y = event.index
        names = seen.look((y, x))
        chosen = layer if layer in names else names[-1]
        choices = gr.update(choices=names, value=chosen, visible=True)
        return seen.told(), choices, seen.attention(chosen)

    # What gradio knows the event by; as a string it would look for `gr` among the globals.
    on_pixel.__annotations__["event"] = gr.SelectData

    def on_layer(seen: Seen | None, layer: str | None):
        return seen.attention(layer) if seen and seen.pixel and layer else None

    names = ", ".join(map(html.escape, info.classes[:CLASSES]))
    if len(info.classes) > CLASSES:
        names += ", …"
    answer = dict(
        format="png", interactive=False, height=HEIGHT, buttons=["download", "fullscreen"]
    )
    with gr.Blocks(title=title, analytics_enabled=False) as page:
        gr.Markdown(f"## {html.escape(title)}\n{len(info.classes)} classes: {names}")
        seen = gr.State()
        with gr.Row():
            image = gr.Image(
                type="filepath",
                image_mode=None,  # the file as it is: depth and orientation are ours to read
                sources=["upload", "clipboard"],
                label="Image",
                height=HEIGHT,
                elem_id="image",
            )
            shown = gr.Image(label="Prediction", elem_id="prediction", **answer)
        with gr.Row():
            with gr.Column():
                opacity = gr.Slider(
                    0,
                    1,
                    USUAL_OPACITY,
                    step=0.05,
                    label="Opacity of the classes",
                    elem_id="opacity",
                    visible=predictor.segments,
                )
                shares = gr.HTML(elem_id="shares")
            with gr.Column():
                told = gr.Markdown(INVITATION if looks else NO_ATTENTION, elem_id="told")
                layer = gr.Dropdown(label="Layer", choices=[], visible=False, elem_id="layer")
                attention = gr.Image(
                    label="Attention", elem_id="attention", visible=looks, **answer
                )
        image.change(
            on_image, [image, opacity], [seen, shown, shares, told, layer, attention],
            concurrency_limit=1,
        )  # fmt: skip
        opacity.change(
            on_opacity, [seen, opacity], shown, show_progress="hidden", trigger_mode="always_last"
        )
        shown.select(on_pixel, [seen, layer], [told, layer, attention])
        layer.input(on_layer, [seen, layer], attention)
    return page


def serve(page, host: str = "127.0.0.1", port: int | None = None, block: bool = True) -> str:
    """Starts the page's server and returns its address.

    Args:
      page: from `build_page`.
      host: address to listen on; others reach "0.0.0.0".
      port: default the first free one from 7860 on.
      block: wait until the server is stopped.

    Raises:
      UserError: the port is taken, or out of range.
    """
    gr = load_gradio()
    from starlette.middleware import Middleware

    check(port is None or 0 < port < 2**16, f"--port={port} is no port; use 1 to 65535.")
    # Of the machine's own fonts: gradio's default themes fetch theirs.
    text, code = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            footer_links=[],
            theme=gr.themes.Default(font=text, font_mono=code),
            css=STYLE,
            app_kwargs={"middleware": [Middleware(_Policy)]},
        )
    except OSError as error:
        raise UserError(f"cannot listen on {host}:{port or 7860} ({error}).") from error
    print(f"the page is at {address} (stop with Ctrl-C)", flush=True)
    if block:
        page.block_thread()
    return address


class _Policy:
    """Sends `POLICY` with every answer (an ASGI middleware)."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def with_policy(message):
            if message["type"] == "http.response.start":
                header = (b"content-security-policy", POLICY.encode())
                message = message | {"headers": [*message.get("headers", []), header]}
            await send(message)

        await self.app(scope, receive, with_policy)
