"""What turns pages for GitHub into pages of the site, and checks the result. A warning fails the build (--strict)."""

import logging
import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
log = logging.getLogger("mkdocs.hooks.crossbill")

LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^ *(```+)")
ITEM = re.compile(r"^( *)([-*+]|\d+[.)])( +)")


def on_config(config):
    """The navigation is the first column of the tables in docs/README.md."""
    docs = Path(config.docs_dir)
    home = []
    config.nav = [{"Home": home}]
    section = home
    for line in (docs / "README.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = []
            config.nav.append({line[3:]: section})
        elif line.startswith("|"):
            for title, target in re.findall(r"\[([^\]]+)\]\(([^)#]+\.md)\)", line.split("|")[1]):
                section.append({title: target})
                if target == "reference/cli/crossbill.md":
                    pages = sorted(docs.glob("reference/cli/crossbill_*.md"))
                    section[-1] = {title: [{"crossbill": target}] + [{p.stem.replace("_", " "): f"reference/cli/{p.name}"} for p in pages]}
    home.insert(0, "README.md")
    config.nav = [part for part in config.nav if all(part.values())]
    return config


def on_page_markdown(markdown, page, config, files):
    """Links out of docs/ lead to the repository. Lists and tables become what Python-Markdown takes for them."""
    docs = Path(config.docs_dir).resolve()
    folder = (docs / page.file.src_uri).parent

    def outward(found):
        target, hash, fragment = found[1].partition("#")
        if not target or "://" in target or target.startswith("mailto:"):
            return found[0]
        path = (folder / target).resolve()
        if path.is_relative_to(docs) and not path.is_dir():
            return found[0]
        if not path.exists():
            log.warning("%s: link to %s, which does not exist", page.file.src_uri, found[1])
        kind = "tree" if path.is_dir() else "blob"
        return f"]({config.extra['repository']}/{kind}/main/{path.relative_to(REPOSITORY.resolve())}{hash}{fragment})"

    lines = []
    fence = None
    shift = 0  # how much further right a line goes
    items = []  # where the content of the open list items starts, in the page
    apart = False  # a blank line has come since the last list item
    for line in markdown.splitlines():
        before = lines[-1] if lines else ""
        indent = len(line) - len(line.lstrip(" "))
        if fence is not None:
            lines.append(" " * max(0, indent + shift) + line.lstrip(" "))
            if line.strip() == fence:
                fence = None
            continue
        if not line.strip():
            lines.append("")
            apart = True
            continue
        item = ITEM.match(line)
        listed = bool(items)
        if item or not before.strip():
            while items and indent < items[-1]:
                items.pop()
        shift = 4 * len(items) - (items[-1] if items else 0)
        if item:
            if before.strip() and (apart or not listed):
                lines.append("")
            items.append(item.end())
            apart = False
        elif line.lstrip().startswith("|") and before.strip() and not before.lstrip().startswith("|"):
            lines.append("")
        if found := FENCE.match(line):
            fence = found[1]
            if line.strip().startswith("```mermaid"):
                log.warning("%s: a diagram that a script from elsewhere would draw", page.file.src_uri)
        lines.append(" " * max(0, indent + shift) + LINK.sub(outward, line.lstrip(" ")))
    return "\n".join(lines) + "\n"


def on_page_content(html, page, config, files):
    """Markdown that has become text was taken for something else."""
    text = re.sub(r"<(pre|code)\b.*?</\1>", "", html, flags=re.DOTALL)
    for left in re.findall(r"^.*```.*$|^ *(?:<p>)?(?:[-*+]|\d+\.) .*$|^.*\|-+\|.*$|^.*\]\(.*$", text, re.MULTILINE):
        log.warning("%s: not rendered: %s", page.file.src_uri, left.strip())
    return html


def on_post_page(output, page, config):
    """The site works without anybody else's server, and for those who do not see it."""
    for tag in re.findall(r"<(?:script|link|img|iframe|source|video)\b[^>]*(?:src|href)=[\"']?(?:https?:)?//[^>]*>", output):
        log.warning("%s: requested from elsewhere: %s", page.file.src_uri, tag)
    output = output.replace('data-md-component="search" role="dialog"', 'data-md-component="search" role="dialog" aria-label="Search"')
    return output.replace("<th></th>", "<td></td>")
