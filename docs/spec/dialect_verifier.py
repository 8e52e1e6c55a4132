"""What verifier.py leaves out: streams of server-sent events and their checkpoints, lines, and the projections of what LLM providers speak.

Written from the pages beside it like verifier.py, of which it is the second part: importing it adds to that file's `BODIES`, `KNOWN` and
`CHECKS`; infer_verifier.py is the third. What reads a projection gives (choice, name, value) for each value of a part: a string, bytes as
they are, or `NO` for what cannot be covered.
"""

import bisect
import itertools
import re

from verifier import (
    BODIES, CHECKS, DISABLED, KNOWN, b64, canonical, chat_values, check_found, check_tag, check_token, encode, has, is_int,
    is_list, is_text, leaves_of, read_json, rule, stage_of, tree,
)  # fmt: skip

NO = 0
TOOLS = ("tool_use", "server_tool_use", "mcp_tool_use")
FITS = {  # delta of messages-1: the blocks that it fits, and of each of its members the part
    "text_delta": (("text",), {"text": "text"}), "thinking_delta": (("thinking",), {"thinking": "thinking"}),
    "signature_delta": (("thinking",), {"signature": "signature"}), "input_json_delta": (TOOLS, {"partial_json": "partial"}),
    "compaction_delta": (("compaction",), {"content": "compaction", "encrypted_content": "encrypted_content"})}  # fmt: skip
BLOCKS = {"text": {"text": "text"}, "thinking": {"thinking": "thinking", "signature": "signature"},
          "redacted_thinking": {"data": "redacted_thinking"}, "compaction": FITS["compaction_delta"][1]}  # fmt: skip
ENTRIES = {  # entry of `content` or `summary` in responses-1: its part and its member
    "output_text": ("text", "text"), "refusal": ("refusal", "refusal"), "reasoning_text": ("reasoning", "text"),
    "summary_text": ("reasoning_summary", "text")}  # fmt: skip
ADDED = {  # event of responses-1 with a string: its part, the place of the entry, its member
    "output_text.delta": ("text", "content_index", "delta"), "refusal.delta": ("refusal", "content_index", "delta"),
    "reasoning_text.delta": ("reasoning", "content_index", "delta"), "custom_tool_call_input.delta": ("input", None, "delta"),
    "reasoning_summary_text.delta": ("reasoning_summary", "summary_index", "delta"),
    "function_call_arguments.delta": ("arguments", None, "delta")}  # fmt: skip
REPEATED = {
    "output_text.done": ("text", "content_index", "text"), "refusal.done": ("refusal", "content_index", "refusal"),
    "reasoning_text.done": ("reasoning", "content_index", "text"), "custom_tool_call_input.done": ("input", None, "input"),
    "reasoning_summary_text.done": ("reasoning_summary", "summary_index", "text"),
    "function_call_arguments.done": ("arguments", None, "arguments")}  # fmt: skip
CALLS = {"function_call": ("name", "arguments"), "custom_tool_call": ("custom_name", "input")}  # item: its parts; the second is its member
ENDS = ("response.completed", "response.incomplete", "response.failed")

def coded(value):  # RFC 8785 bytes
    try:
        return canonical(value)
    except ValueError:
        return NO

def shown(values): return [(choice, name, value) for choice, name, value in values if value is not None and value != ""]
def is_place(value): return is_int(value, 0, 65535)
def numbered(name, place): return f"{name}.{place}" if place else name
def entries(name, holder, member):  # an array of objects where there is one
    value = holder.get(member)
    rule(name, value is None or (is_list(value, has) and len(value) <= 65536), detail=f"{member} is no array of objects")
    return [entry if has(entry) else {} for entry in value] if isinstance(value, list) else []
def held(name, holder, member, optional=False):
    rule(name, has(holder.get(member)) or (optional and holder.get(member) is None), detail=f"{member} is no object")
    return holder[member] if has(holder.get(member)) else {}

def completion_values(body, kind):  # P1 holds for `choices` and `index`
    listed = body["choices"] if isinstance(body.get("choices"), list) else []
    bare = [{"index": entry.get("index")} if has(entry) else entry for entry in listed]
    chat_values({"choices": bare or body.get("choices")}, kind)
    return shown((entry.get("index"), "text", entry.get("text")) for entry in listed if has(entry))

def entry_values(entry, place, of):  # `of`: content or summary
    name, member = ENTRIES.get(str(entry.get("type")), (of, None))
    return [(numbered(name, place), entry.get(member) if member else coded(entry))]
def item_values(item):
    kind = item.get("type")
    if kind in ("message", "reasoning"):
        members = ("content", "summary") if kind == "reasoning" else ("content",)
        return [pair for of in members for at, entry in enumerate(entries("P10", item, of)) for pair in entry_values(entry, at, of)]
    if is_text(kind) and kind in CALLS:
        return [(CALLS[kind][0], item.get("name")), (CALLS[kind][1], item.get(CALLS[kind][1]))]
    return [("item", coded({name: member for name, member in item.items() if name not in ("id", "status", "encrypted_content")}))]
def output_values(response):
    return [(at, *pair) for at, item in enumerate(entries("P10", response, "output")) for pair in item_values(item)]
def response_event(event, _):  # what an event adds, and what it repeats
    kind = event["type"].removeprefix("response.") if is_text(event.get("type"), r"(?s)response\..*") else ""

    def place(member):
        rule("P10", member is None or is_place(event.get(member)), detail=f"{member} of {kind}")
        return event[member] if member and is_int(event.get(member)) else 0
    found = []
    if kind in ADDED or kind in REPEATED:
        name, member, of = ADDED.get(kind) or REPEATED[kind]
        found = [(place("output_index"), numbered(name, place(member)), event.get(of))]
    elif kind in ("output_item.added", "output_item.done"):
        at, item = place("output_index"), held("P10", event, "item", True)
        found = [(at, *pair) for pair in item_values(item)] if event.get("item") is not None else []
    elif kind in ("content_part.added", "content_part.done", "reasoning_summary_part.added", "reasoning_summary_part.done"):
        of = "content" if kind.startswith("content") else "summary"
        at, entry, part = place("output_index"), place(f"{of}_index"), held("P10", event, "part", True)
        found = [(at, *pair) for pair in entry_values(part, entry, of)] if event.get("part") is not None else []
    elif kind in ("created", "queued", "in_progress", "completed", "incomplete", "failed"):
        found = output_values(held("P10", event, "response", event["type"] not in ENDS))
    whole = r"item|(content|summary)(\.\d+)?" if kind.endswith(".added") else "(?!)"  # what an event that begins it does not bear
    found = [value for value in shown(found) if not is_text(value[1], whole)]
    adds = kind.endswith((".added", ".delta")) or kind in ("created", "queued", "in_progress")
    return (found, []) if adds else ([], found)

def block_values(block):
    kind = block.get("type")
    if kind in TOOLS:
        return [("name", block.get("name")), ("input", coded(block["input"]) if has(block.get("input")) else block.get("input"))]
    if is_text(kind) and kind in BLOCKS:
        return [(name, block.get(member)) for member, name in BLOCKS[kind].items()]
    return [("block", coded(block))]
def message_values(message):
    return [(at, *pair) for at, block in enumerate(entries("P11", message, "content")) for pair in block_values(block)]
def message_event(event, begun):  # `begun`: the type of each block that has begun
    kind, at = event.get("type"), event.get("index")

    def begin(place, block):
        rule("P11", place not in begun, detail="a block begins twice")
        begun[place] = block.get("type")
    if kind == "message_start":
        message = held("P11", event, "message")
        for place, block in enumerate(entries("P11", message, "content")):
            begin(place, block)
        return shown(message_values(message)), []
    if kind not in ("content_block_start", "content_block_delta"):
        return [], []
    rule("P11", is_place(at), detail="index")
    at = at if is_int(at) else 0
    if kind == "content_block_start":
        begin(at, block := held("P11", event, "content_block"))
        return shown((at, *pair) for pair in block_values(block)), []
    delta = held("P11", event, "delta")
    rule("P11", at in begun, detail="a delta of no block")
    blocks, members = FITS.get(str(delta.get("type")), ((), {}))
    rule("P11", not members or begun.get(at) in blocks, detail="a delta of another type of block")
    return shown((at, name, delta.get(member)) for member, name in members.items()), []
def with_inputs(values):  # P11: what the partial JSON of each block comes to, in place of the input it began with
    partial = {}
    for choice, _, value in (value for value in values if value[1] == "partial"):
        partial.setdefault(choice, []).append(value)
    kept = [value for value in values if value[1] != "partial" and not (value[1] == "input" and value[0] in partial)]
    for choice, texts in partial.items():
        data = encode("partial", texts)
        value, faults = read_json(data, 64, False) if data is not None else (None, [])
        kept.append((choice, "input", coded(value) if has(value) and not faults else NO))
    return kept

def events(content, of=slice(-1)):  # C6: name and data of every event that a blank line ends
    text = content.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n\n")[of]
    found = [[re.findall(rb"(?m)^" + field + rb"(?:: ?(.*))?$", event) for field in (b"event", b"data")] for event in text]
    return [(b"".join(names[-1:]).decode("utf-8", "replace"), b"\n".join(data)) for names, data in found if any(data) or data[1:]]
def is_whole(data):  # C18: an object whose last brace has come
    braces = [mark for mark in re.findall(rb'(?s)"(?:[^"\\]|\\.)*"?|[{}]', data) if mark in b"{}"]
    return data.lstrip(b" \t\n")[:1] == b"{" and 0 in itertools.accumulate(1 if mark == b"{" else -1 for mark in braces)
def is_split(data):  # C18: of several lines one is an object by itself
    lines = [line for line in data.split(b"\n") if line.strip(b" \t")]
    return len(lines) > 1 and any(map(is_whole, lines))
def tail_of(content):  # C18: what follows the last blank line, as an event where its data is an object to the end
    data = b"".join(data for _, data in events(content, slice(-1, None)))
    rule("C18", b"[DONE]".startswith(data) or data.lstrip(b" \t\n")[:1] in (b"", b"{"), detail="data that begins no event")
    rule("C18", not is_split(data), detail="a line after the last blank line is an object by itself")
    if "C18" in DISABLED or not is_whole(data):
        return []
    event, faults = read_json(data, 64, False)
    rule("C18", has(event) and not faults, detail="not strict JSON after the last blank line")
    return [event]
def is_named(form, name, event):  # C16
    if form in ("responses-1", "messages-1"):
        return name == event.get("type") or (form == "responses-1" and name == "")
    return name in ("", "message") or (name == "error" and event.get("error") is not None)
def end_of(content, place):  # where the event ends whose data is at this place
    ends = [line.end() for line in re.finditer(rb"\r\n|\r|\n", content)]
    return ends[bisect.bisect_right(ends, place, key=lambda end: len(events(content[:end])))]
STREAMS = {
    "chat-1": lambda event, _: (chat_values(event, "delta"), []), "completions-1": lambda event, _: (completion_values(event, "delta"), []),
    "responses-1": response_event, "messages-1": message_event}  # fmt: skip
def form_of(bodies):  # C13: the place of the event that tells, and what it tells
    for place, event in enumerate(bodies):
        kind, choices = event.get("type"), event.get("choices")
        if is_text(kind) and kind not in ("ping", "error"):
            return place, "responses-1" if kind.startswith("response.") else "messages-1" if kind == "message_start" else "chat-1"
        if choices is not None and choices != []:
            legacy = isinstance(choices, list) and any(has(entry) and "text" in entry for entry in choices)
            return place, "completions-1" if legacy or event.get("object") == "text_completion" else "chat-1"
    return len(bodies), None
def parts_of(values):
    made = {}
    for choice, name, value in values:
        made.setdefault((choice, name), []).append(value)
    return made
def gather(gave):  # P10, event by event: what each adds
    had, whole, steps = {}, set(), []
    for added, repeated in gave:
        rule("P10", not whole & parts_of(added).keys(), detail="a part goes on after it was repeated")
        new = list(added)
        for place, values in parts_of(added).items():
            had.setdefault(place, []).extend(values)
        for place, values in parts_of(repeated).items():
            rule("P10", place not in had or encode(place[1], values) == encode(place[1], had[place]), detail="repeated with another value")
            new += [(*place, value) for value in values] if place not in had else []
            had.setdefault(place, values)
            whole.add(place)
        steps.append(new)
    return steps
def found_in(form, steps):  # the leaves of what events added
    values = [value for added in steps for value in added]
    return leaves_of(with_inputs(values) if form == "messages-1" else values)
def same_exchange(name, first, claims):
    rule(name, all(first.get(claim) == claims.get(claim) for claim in ("iss", "rid", "sub", "req")), detail="a token of another exchange")
def check_first(name, token, claims, trust, now):  # C7: a pending token, and the claims of the final one if there is one
    if name not in DISABLED:
        first, _ = check_token(token, trust, now, "pending")
        rule(name, first.get("stage") == "pending", detail="no pending token")
        same_exchange(name, first, claims or first)
def check_points(points, claims, trust, now, fits, leaves_at):  # C11: `points` are (place, token, tag); the claims of each
    proven = []
    for place, token, tag in points:
        own, part = check_token(token, trust, now, "checkpoint")
        rule("C11", own.get("stage") == "checkpoint", detail="no checkpoint")
        same_exchange("C11", own, claims)
        rule("C11", part.get("proj") in fits(place), detail="a checkpoint of another form")
        proven.append(own)
        for leaves in (leaves_at(place), *([tag["leaves"]] if has(tag) and "leaves" in tag else [])):
            rule("C11", b64(tree(leaves)) == part.get("root") and len(leaves) == part.get("n"), detail="not what came up to a checkpoint")
    return proven
def check_firsts(pending, firsts, claims, trust, now):
    for name, first in [("C7", pending)] * bool(pending) + [("C12", first) for _, first, _ in firsts]:
        check_first(name, first, claims, trust, now)
        rule("C12", pending in (None, first), detail="two pending tokens")
def check_stream(content, trust, now, pending, *_):
    read = [(name, data, *read_json(data, 64, False)) for name, data in events(content)]
    rule("C3", all(data == b"[DONE]" or (has(event) and not faults) for _, data, event, faults in read), detail="not strict JSON")
    placed = [place for place, (_, _, event, _) in enumerate(read) if has(event)]
    done = [place for place, (_, data, _, _) in enumerate(read) if data == b"[DONE]"] or [len(read)]
    bodies, tags, firsts = [read[place][2] for place in placed], [], []
    told, form = form_of(bodies)
    inner = {"responses-1": "response", "messages-1": "message"}.get(form, "")
    for place, event in enumerate(bodies):
        for depth, carrier in enumerate([event, event[inner]] if inner and has(event.get(inner)) else [event]):
            if "ai_provenance" in carrier:
                tag = (place, check_tag(carrier["ai_provenance"]), carrier["ai_provenance"])
                early = depth and inner == "message" and event.get("type") == "message_start"
                rule("C4", early or not depth or stage_of(tag[1]) != "checkpoint", detail="a checkpoint further inside")
                (firsts if early else tags).append(tag)
    points, finals = ([tag for tag in tags if (stage_of(tag[1]) == "checkpoint") is early] for early in (True, False))
    points = [] if "C11" in DISABLED else points
    if not finals and not points:
        check_firsts(pending, firsts, None, trust, now)
    none = "incomplete" if pending or firsts else "absent"
    rule("C4", len(finals) == 1 or (points and not finals), "invalid" if finals else none, "not exactly one final token")
    at, token, tag = (finals or points or [(0, "", None)])[0]
    claims, sealed = check_token(token, trust, now, "event" if finals or not points else "checkpoint")
    if form is None or (finals and told > at):
        form = sealed["proj"] if sealed.get("proj") in STREAMS else "chat-1"
    rule("C16", all(is_named(form, read[place][0], event) for place, event in zip(placed, bodies, strict=True)), detail="another name")
    rule("C18", not any(is_split(read[place][1]) for place in placed), detail="a line of data is an object by itself")
    rule("C17", not finals or placed[at] < done[0], detail="[DONE] before the final token")
    bodies, begun = bodies + (tail_of(content) if finals else []), {}
    steps = gather([STREAMS[form](event, begun) for event in bodies])
    fails = [event.get("error") is not None or event.get("type") in ("error", "response.failed") for event in bodies]
    after = range(at + 1, len(bodies)) if finals or not points else ()
    rule("C5", not any(steps[late] or fails[late] for late in after), detail="content or an error after the final token")
    check_firsts(pending, firsts, claims, trust, now)
    rule("C11", not finals or all(place < at for place, _, _ in points), detail="a checkpoint after the final token")
    rule("P9", not finals or sealed.get("proj") == form, detail="proj does not fit the stream")
    fits, leaves_at = (lambda place: STREAMS if told > place else [form]), (lambda place: found_in(form, steps[: place + 1]))
    proven = check_points(points, claims, trust, now, fits, leaves_at)
    if points and not finals:
        proving = [number for number, (place, _, _) in enumerate(points) if placed[place] < done[0] or "C17" in DISABLED][-1:]
        upto = [end_of(content, placed[points[number][0]]) for number in proving]
        return proven[(proving or [0])[0]], f"C11: proven: {upto[0]} bytes" if upto else "C17: checkpoints after [DONE] alone"
    check_found(found_in(form, steps), sealed, tag)
    terminator = {len(read): "missing", len(read) - 1: "present"}.get(done[0], "followed")
    return claims, f"terminator: {terminator}" if form in ("chat-1", "completions-1") else ""  # C8 is for these two


def check_lines(content, trust, now, token, _digest, _leaves, _choice, pending):
    read = [read_json(line, 64, False) for line in content.split(b"\n") if line.strip(b" \t\r")]
    tagged = [place for place, (value, faults) in enumerate(read) if has(value) and not faults and [*value] == ["ai_provenance"]]
    tag = read[tagged[-1]][0]["ai_provenance"] if tagged else None
    own = check_tag(tag) if tagged else None
    rule("C14", tagged in ([], [len(read) - 1]), detail="the line of the tag is not the last")
    if pending and not own and not token:
        check_first("C14", pending, None, trust, now)
    none = "incomplete" if pending else "absent"
    rule("C14", own == token if own and token else own or token, "invalid" if own else none, "two tags, or none")
    claims, sealed = check_token(own or token or "", trust, now)
    if pending:
        check_first("C14", pending, claims, trust, now)
    proj = sealed.get("proj")
    rule("P9", proj == "ndjson-1" or (proj == "bytes-1" and not own), detail="proj does not fit lines")
    rule("C14", proj == "bytes-1" or not any(faults for _, faults in read), detail="a line is not strict JSON")
    lines = [coded(value) for place, (value, _) in enumerate(read) if place not in tagged]
    covered = NO if NO in lines else b"".join(line + b"\n" for line in lines)
    check_found(leaves_of([(0, "body", content)] if proj == "bytes-1" else [(0, "lines", covered)]), sealed, tag)
    return claims, ""


BODIES |= {
    "completions-1": (lambda body: body.get("choices") is not None, lambda body, _: completion_values(body, "message")),
    "responses-1": (lambda body: isinstance(body.get("output"), list), lambda body, _: shown(output_values(body))),
    "messages-1": (lambda body: isinstance(body.get("content"), list), lambda body, _: shown(message_values(body)))}  # fmt: skip
KNOWN |= {*BODIES, "ndjson-1"}
CHECKS |= {"stream": check_stream, "lines": check_lines}
