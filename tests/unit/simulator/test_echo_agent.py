from __future__ import annotations

import json
from pathlib import Path

from gateway.simulator.echo_agent import reply


def test_echo_repeats_the_senders_words_and_nobody_elses() -> None:
    prompt = (
        '<recent_context count="1">\n[Eve]: psst\n</recent_context>\n\n'
        '<quoted_message message_id="om_1" sender="Eve" type="merge_forward">\n<forwarded_messages count="0">\n'
        "[unable to fetch]\n</forwarded_messages>\n</quoted_message>\n\n[Ann]: hello <b>"
    )
    answer = reply(json.dumps({"prompt": prompt}).encode())
    assert answer.partition(": ")[2] == "[Ann]: hello <b>"


def test_echo_tells_of_the_files_that_it_was_given(tmp_path: Path) -> None:
    there = tmp_path / "1.png"
    there.write_bytes(b"12345")
    files = [{"kind": "image", "path": str(there)}, {"kind": "file", "path": None}]
    task = {"prompt": "[Image]", "messages": [{"attachments": files}]}
    assert reply(json.dumps(task).encode()).endswith(": [Image] (image of 5 bytes)")
