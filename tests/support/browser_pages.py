"""How pages of a site look in a browser: what of each is too wide, missing, or hardly to be read."""

import html
import json
import re
import subprocess

from support import needs

LEAST_CONTRAST = 4.5
"""The least contrast of text to what is behind it that WCAG 2 of the W3C requires."""

SCRIPT = """
const pages = PAGES, found = {};
const numbers = text => { const n = text.match(/[\\d.]+/g).map(Number); return [...n, 1].slice(0, 4); };
const share = x => (x /= 255) <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
const light = ([r, g, b]) => 0.2126 * share(r) + 0.7152 * share(g) + 0.0722 * share(b);
function behind(node, view) {
    for (; node; node = node.parentElement) {
        const color = numbers(view.getComputedStyle(node).backgroundColor);
        if (color[3] > 0.5) return color;
    }
    return [255, 255, 255];
}
function complaints(frame) {
    const page = frame.contentDocument, root = page.documentElement, said = [];
    if (root.scrollWidth > root.clientWidth) said.push(`${root.scrollWidth} wide of ${root.clientWidth}`);
    for (const image of page.images) if (!image.naturalWidth) said.push(`no picture ${image.src}`);
    let texts = 0;
    for (const node of page.querySelectorAll("article *")) {
        const own = [...node.childNodes].filter(child => child.nodeType == 3 && child.textContent.trim());
        if (!own.length || !node.offsetParent) continue;
        const color = numbers(frame.contentWindow.getComputedStyle(node).color);
        const both = [light(color), light(behind(node, frame.contentWindow))].sort((a, b) => a - b);
        const contrast = (both[1] + 0.05) / (both[0] + 0.05);
        if (contrast < LEAST) said.push(`${own[0].textContent.trim()} at ${contrast.toFixed(2)}`);
        texts++;
    }
    if (!texts) said.push("no text");
    return said;
}
function next() {
    if (!pages.length) { document.getElementById("found").textContent = JSON.stringify(found); return; }
    const frame = document.createElement("iframe"), name = pages.shift();
    frame.style = "width: WIDTHpx; height: 800px; border: 0";
    frame.src = name;
    frame.onload = () => { found[name] = complaints(frame); frame.remove(); next(); };
    document.body.append(frame);
}
next();
"""


def complaints(site, pages, width, mode, folder):
    """What is wrong with pages, by their names, in a frame of so many pixels; mode : "light" or "dark"."""
    scheme = {"dark": 0, "light": 1}[mode]
    script = SCRIPT.replace("PAGES", json.dumps(pages)).replace("WIDTH", str(width))
    script = script.replace("LEAST", str(LEAST_CONTRAST))
    frames = site / "frames.html"
    frames.write_text(f"<body><pre id=found></pre><script>{script}</script></body>", encoding="utf-8")
    command = [
        *(needs.BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
        *("--allow-file-access-from-files", f"--user-data-dir={folder / 'profile'}", "--dump-dom"),
        *("--virtual-time-budget=60000", f"--blink-settings=preferredColorScheme={scheme}"),
        frames.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=needs.PATIENCE)
    frames.unlink()
    found = json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.S)[1]))
    assert set(found) == set(pages)
    said = {page: lines for page, lines in found.items() if lines}
    if errors := re.findall(r"CONSOLE.*", done.stderr):
        said["console"] = errors
    return said
