"""The five minutes of the README, as they are written there: its own commands, on ports that are free."""

import json
import re
import shlex
import socket
import subprocess
from pathlib import Path

from tests.commands import ENTRY_POINT, clean_environment, running

PAGE = (Path(__file__).resolve().parents[2] / "README.md").read_text()
BLOCKS = dict(re.findall(r"^```sh (\w+)\n(.*?)\n```$", PAGE, flags=re.MULTILINE | re.DOTALL))


def test_the_five_minutes_work_as_written(tmp_path: Path) -> None:
    served, received = free_port(), free_port()

    def shell(block: str, **variables: str) -> str:
        # The listings name the default ports and the virtual environment of a fresh checkout.
        text = block.replace("8000", str(served)).replace("9000", str(received)).replace(". .venv/bin/activate\n", "")
        text = text.replace("gatepost trigger", f"gatepost trigger --url http://127.0.0.1:{served}")
        path = f"{ENTRY_POINT.parent}:{clean_environment()['PATH']}"
        done = subprocess.run(
            ["sh", "-ec", text + "\necho; echo $GATEPOST_API_KEY"],
            cwd=tmp_path,
            env=clean_environment({"PATH": path, "GATEPOST_STORE": f"sqlite:///{tmp_path}/gatepost.db", **variables}),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    allowed = re.search(r"^export (\w+)=(.*)$", BLOCKS["setup"], flags=re.MULTILINE)
    assert allowed
    assert "gatepost serve" in BLOCKS["setup"]
    settings = {allowed[1]: allowed[2], "GATEPOST_STORE": f"sqlite:///{tmp_path}/gatepost.db"}
    with running("serve", "--port", str(served), environment=settings) as serving:
        serving.until("server.started", stream="stderr")
        answer, key = shell(BLOCKS["webhook"]).strip().split("\n")
        listen = shlex.split(BLOCKS["listen"].splitlines()[-1])
        assert listen[:3] == ["gatepost", "listen", "--secret"]
        with running("listen", "--secret", json.loads(answer)["secret"], "--port", str(received)) as listening:
            listening.until("Listening on", stream="stderr")
            shown = shell(BLOCKS["trigger"], GATEPOST_API_KEY=key)
            assert "verified ✓" in listening.until("task.completed")
        assert shown.startswith("task.completed: tsk_")
        events = [each["event"] for each in json.loads(shown.splitlines()[1])["items"]]
        assert sorted(events) == ["task.completed", "task.created"]
        assert '"verdict":"not_selected"' in shell(BLOCKS["publish"], GATEPOST_API_KEY=key)
        assert "task.swapped: tsk_" in shell(BLOCKS["people"], GATEPOST_API_KEY=key)
        assert serving.stop() == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
