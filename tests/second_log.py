"""The second verifier's reader of log.md and of a transition's message, by both schemas, written from docs/design.md §2."""
import hashlib, json, re
from second_policy import need
BARE, HEAD, FIELD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/@+-]*"), re.compile(r"## ([1-9]\d*) ([a-z]+(?:-[a-z]+)*) ([a-z0-9][a-z0-9-]*)"), re.compile(r"- ([a-z_]+): ([ -~]+)")
FOLDED = re.compile(r"- (\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\dZ) ([ -~]+)\n  <!-- ([1-9]\d*) ([a-z]+(?:-[a-z]+)*) ([a-z0-9][a-z0-9-]*) (\{[ -~]*\}) -->\n", re.ASCII)
TRAILERS = re.compile(r"Runner-Protocol: (\S+)\nRunner-Revision: (\d+)\n((?:Runner-Event: [a-z-]+ [a-z0-9-]+\n)+)Runner-Trusted: ([0-9a-f]{40}|[0-9a-f]{64})\nRunner-Actor: (\S+)\n"
                      r"(?:Runner-Plan: sha256:[0-9a-f]{64}\n)?(?:Runner-Policy: (sha256:[0-9a-f]{64})\n)?(?:Runner-Engine: \S+\n)*(?:Runner-Cost: \$[\d.]+\n)?(?:Runner-Verdict: (?:passed|failed)\n)*")
def ours(message, name=None):
    found = TRAILERS.fullmatch(message.decode("latin-1").rpartition("\n\n")[2])
    return found if found and name in (None, found[1]) else None

def entries(data):  # (revision, event, subject, fields with time and actor, its text)
    text = data.decode("ascii")
    if text[:2] == "- ":
        found = [*FOLDED.finditer(text)]
        need("".join(one[0] for one in found) == text, "the log is not of the grammar")
        for one in found:
            f = json.loads(one[7])
            plain = json.dumps(f, sort_keys=True, separators=(",", ":"), allow_nan=False).replace("--", "-\\u002d").replace("<", "\\u003c").replace(">", "\\u003e")
            need(isinstance(f.get("actor"), str) and "time" not in f and plain == one[7] and one[3] == says(one[5], one[6], f, True), f"entry {one[4]} is written otherwise")
            yield int(one[4]), one[5], one[6], {"time": f"{one[1]}T{one[2]}", **f}, one[0]
        return
    need(data == b"" or data.endswith(b"\n\n"), "the log is cut off")
    for block in text.split("\n\n")[:-1]:
        first, pairs, f = HEAD.fullmatch(block.split("\n")[0]), [FIELD.fullmatch(line) for line in block.split("\n")[1:]], {}
        need(first and all(pairs) and [pair[1] for pair in pairs[:2]] == ["time", "actor"], "the log is not of the grammar")
        for key, text in (pair.groups() for pair in pairs):
            need(key not in f and (BARE.fullmatch(text) or text[0] in '"[{-'), f"the field {key}")
            f[key] = text if is_word(text) else json.loads(text)
        yield int(first[1]), first[2], first[3], f, block + "\n"

def is_word(text): return BARE.fullmatch(text) and not re.fullmatch(r"(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?|true|false|null|NaN|Infinity", text)
def quoted(text):
    shown = re.sub("[^ -~]", "?", re.sub("[\t\n\r ]+", " ", text).strip(" ").replace("`", "'"))
    return f"`{shown if len(shown) < 73 else shown[:69] + '...'}`" if shown else ""
def cost(f):
    usd = f["spent"].get("usd") if isinstance(f.get("spent"), dict) else None
    return usd if isinstance(usd, str) and re.fullmatch(r"[0-9]{1,15}(\.[0-9]{1,12})?", usd) else ""
def says(kind, about, f, texts):  # an entry's line, after its time
    words, by = kind.removeprefix("step-").replace("-", " "), f.get("by", "")
    who = quoted(", ".join(map(str, by)) if isinstance(by, list) else by if isinstance(by, str) else "") if texts else ""
    facts = ", ".join([f"attempt {f.get('attempt')}"] * (type(f.get("attempt")) is int) + [f"${cost(f)}"] * bool(cost(f)))
    quotes = [quoted(f[key]) for key in ("reason", "text", "title", "decision", "outcome", "change") if isinstance(f.get(key), str) and quoted(f[key])] if texts else []
    return ((words if about == "plan" and words.startswith("plan") else f"{about} {words}") + (f" {'for' if kind in ('approval-asked', 'asked', 'budget-reached', 'call-held') else 'by'} {who}" if who else "")
            + (f" ({facts})" if facts else "") + (f": {quotes[0]}" if quotes else ""))

def policy_of(repo, commit, said):  # the digest of a trusted commit's policy; where that commit is gone, what is said
    try: tree = repo.get(commit)[0]
    except BrokenPipeError: return said
    mode, oid = repo.get(tree).get(".protocols", ("", None))
    mode, oid = repo.get(oid).get("policy.yaml", ("", None)) if mode == "40000" else ("", None)
    return "sha256:" + hashlib.sha256(repo.get(oid)).hexdigest() if mode in ("100644", "100755", "120000") else None
def rest(repo, told, name, added, state):  # all of a transition's message but its first line
    tail = f"Runner-Protocol: {name}\nRunner-Revision: {added[-1][0]}\n" + "".join(f"Runner-Event: {one[1]} {one[2]}\n" for one in added)
    tail += f"Runner-Trusted: {told[4]}\nRunner-Actor: {added[-1][3]['actor']}\n"
    if state["schema"] == 1: return "\n".join(one[4] for one in added) + "\n" + tail
    policy, costs = policy_of(repo, told[4], told[6]), [cost(one[3]) for one in added if cost(one[3])]
    units, places = sum(int((one + "." * ("." not in one)).replace(".", "") + "0" * (12 - len(one.partition(".")[2]))) for one in costs), max([len(one.partition(".")[2]) for one in costs], default=0)
    paid = f"{units // 10 ** 12}" + f".{units % 10 ** 12:012d}"[:places + 1] * bool(places)
    engines = dict.fromkeys(one[3]["engine"] for one in added if isinstance(one[3].get("engine"), str) and is_word(one[3]["engine"]))
    tail += f"Runner-Plan: {state['plan']}\n" * bool(state["plan"]) + f"Runner-Policy: {policy}\n" * bool(policy) + "".join(f"Runner-Engine: {one}\n" for one in engines)
    tail += f"Runner-Cost: ${paid}\n" * bool(costs) + "".join(f"Runner-Verdict: {one[1][3:]}\n" for one in added if one[1] in ("qa-passed", "qa-failed"))
    return "".join(says(*one[1:4], False) + "\n" for one in added) + "\n" + tail
