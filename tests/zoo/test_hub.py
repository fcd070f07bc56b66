"""An agent's way to the Hugging Face Hub and back, with a server on this machine in place of the Hub."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from tests.zoo.commands import saved, sb3_distrl

pytestmark = pytest.mark.slow

AGENT = ("--algo", "iqn", "--env", "CartPole-v1")


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as huggingface_hub needs for models with small files; what else is asked for is an error."""

    files: dict[str, dict[str, bytes]]  # by name of the repository; of its last commit
    private: set[str]
    asked: list[str]
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Print nothing."""

    def answer(self, status: int, content: bytes, head: bool = False, **headers: str) -> None:
        """
        :param status: HTTP status
        :param content: of the answer
        :param head: whether only the headers are wanted
        :param headers: with _ for -
        """
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if not head:
            self.wfile.write(content)

    def answer_json(self, value: Any, status: int = 200, **headers: str) -> None:
        """
        :param value: of the answer
        :param status: HTTP status
        :param headers: with _ for -
        """
        self.answer(status, json.dumps(value).encode(), Content_Type="application/json", **headers)

    def commit(self, repo: str) -> str:
        """
        :param repo: name of a repository
        :return: hash of all that is in it
        """
        return hashlib.sha1(repr(sorted(self.files[repo].items())).encode()).hexdigest()

    def refuse(self, what: str, code: str, status: int = 404, head: bool = False, **headers: str) -> None:
        """
        :param what: is wrong
        :param code: of the Hub for it
        :param status: HTTP status
        :param head: whether only the headers are wanted
        :param headers: with _ for -
        """
        self.answer(status, what.encode(), head, X_Error_Code=code, X_Error_Message=what, **headers)

    def do_POST(self) -> None:
        """Create a repository, check a model card, prepare or make a commit."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = unquote(urlsplit(self.path).path)
        self.asked.append(f"POST {path}")
        if self.headers.get("Authorization") != "Bearer hf_local":
            return self.refuse("Invalid credentials", "", 401)
        base = f"http://{self.headers['Host']}"
        if path == "/api/repos/create":
            created = json.loads(body)
            repo = f"{created['organization']}/{created['name']}"
            if repo in self.files:
                return self.answer_json({"error": "You already created this model repo", "url": f"{base}/{repo}"}, 409)
            self.files[repo] = {".gitattributes": b"*.zip filter=lfs diff=lfs merge=lfs -text\n"}
            return self.answer_json({"url": f"{base}/{repo}", "name": repo, "id": repo})
        if path == "/api/validate-yaml":
            front = re.match(r"---\n(.*?)\n---\n", json.loads(body)["content"], re.DOTALL)
            errors = [] if front and yaml.safe_load(front[1]) else [{"message": "no metadata"}]
            return self.answer_json({"errors": errors, "warnings": []}, 400 if errors else 200)
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path)
        if match is None or match[1] not in self.files:
            return self.refuse(f"No such path: {path}", "RepoNotFound")
        repo, what = match[1], match[2]
        if what == "preupload":
            asked = json.loads(body)["files"]
            modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in asked]
            return self.answer_json({"files": modes})
        for line in body.splitlines():
            operation = json.loads(line)
            if operation["key"] == "file":
                assert operation["value"]["encoding"] == "base64"
                self.files[repo][operation["value"]["path"]] = base64.b64decode(operation["value"]["content"])
        commit = self.commit(repo)
        self.answer_json({"success": True, "commitOid": commit, "commitUrl": f"{base}/{repo}/commit/{commit}"})

    def do_HEAD(self) -> None:
        """Say what a file is."""
        self.do_GET(head=True)

    def do_GET(self, head: bool = False) -> None:
        """
        Give a file, or describe a repository.

        :param head: whether only the headers are wanted
        """
        path = unquote(urlsplit(self.path).path)
        self.asked.append(f"{self.command} {path}")
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/([^/]+)", path)
        if match and match[1] in self.files:
            repo, files = match[1], self.files[match[1]]
            if match[2] == "revision":
                siblings = [{"rfilename": name} for name in files]
                return self.answer_json({"id": repo, "sha": self.commit(repo), "siblings": siblings, "private": False})
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in files.items()
            ]
            return self.answer_json(entries)
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if match is None or match[1] not in self.files:
            return self.refuse("Repository not found", "RepoNotFound", head=head)
        files, commit = self.files[match[1]], self.commit(match[1])
        if match[3] not in files:
            return self.refuse("Entry not found", "EntryNotFound", head=head, X_Repo_Commit=commit)
        content = files[match[3]]
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        self.answer(200, content, head, ETag=etag, X_Repo_Commit=commit, Content_Type="application/octet-stream")


@pytest.fixture(scope="module")
def hub() -> Iterator[type[Hub]]:
    """:return: a Hub without repositories; its address is the class attribute ``url``"""
    handler = type("EmptyHub", (Hub,), {"files": {}, "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        handler.url = f"http://127.0.0.1:{server.server_address[1]}"  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield handler
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def variables(hub: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """:return: environment variables of a user of the Hub"""
    return {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": "hf_local",
        "HF_HOME": str(tmp_path_factory.mktemp("home")),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """:return: working directory with an agent"""
    path = tmp_path_factory.mktemp("pushed")
    params = ("learning_starts:100", "train_freq:20", "gradient_steps:2", "buffer_size:1000")
    sb3_distrl(path, "train", *AGENT, "-n", "300", "--eval-freq", "150", "--eval-episodes", "1", "-params", *params)
    return path


@pytest.fixture(scope="module")
def pushed(hub: Any, folder: Path, variables: dict[str, str]) -> dict[str, bytes]:
    """:return: files on the Hub after the agent was pushed"""
    printed = sb3_distrl(folder, "push_to_hub", *AGENT, "-f", "logs", "-orga", "someone", "-n", "30", **variables)
    assert list(hub.files) == ["someone/iqn-CartPole-v1"], printed
    return hub.files["someone/iqn-CartPole-v1"]


def test_files_are_pushed(folder: Path, pushed: dict[str, bytes]) -> None:
    expected = {
        ".gitattributes",
        "README.md",
        "args.yml",
        "config.yml",
        "env_kwargs.yml",
        "iqn-CartPole-v1.zip",
        "iqn-CartPole-v1/policy.pth",
        "results.json",
        "train_eval_metrics.zip",
    }
    assert expected <= set(pushed)
    assert json.loads(pushed["results.json"])["n_eval_episodes"] == 10
    run = folder / "logs" / "iqn" / "CartPole-v1_1"
    assert pushed["config.yml"] == (run / "CartPole-v1" / "config.yml").read_bytes()


def test_a_video_is_pushed(pushed: dict[str, bytes]) -> None:
    """ffmpeg is that of imageio-ffmpeg where there is no other."""
    assert "replay.mp4" in pushed
    assert b"ftyp" in pushed["replay.mp4"][:16]


def test_the_model_card_says_how_to_use_it(pushed: dict[str, bytes]) -> None:
    _, front, card = pushed["README.md"].decode().split("---\n", 2)
    assert "python -m rl_zoo3" not in card and "pip install rl_zoo3" not in card
    for command in (
        "sb3-distrl load_from_hub --algo iqn --env CartPole-v1 -orga someone -f logs/",
        "sb3-distrl enjoy --algo iqn --env CartPole-v1",
        "sb3-distrl train --algo iqn --env CartPole-v1",
        "sb3-distrl push_to_hub --algo iqn --env CartPole-v1",
        "pip install 'sb3-distrl[zoo]'",
    ):
        assert command in card
    assert "sb3-distrl  " not in card
    metadata = yaml.safe_load(front)
    assert "stable-baselines3" in metadata["tags"] and metadata["library_name"] == "stable-baselines3"
    (entry,) = metadata["model-index"]
    assert entry["name"] == "IQN"
    (result,) = entry["results"]
    mean = json.loads(pushed["results.json"])["mean_reward"]
    assert result["metrics"][0]["type"] == "mean_reward" and result["metrics"][0]["value"].startswith(f"{mean:.2f} +/- ")


def test_load_from_hub(pushed: dict[str, bytes], tmp_path: Path, variables: dict[str, str]) -> None:
    load = ("load_from_hub", *AGENT, "-orga", "someone", "-f", "downloaded")
    sb3_distrl(tmp_path, *load, TRUST_REMOTE_CODE="True", **variables)
    run = tmp_path / "downloaded" / "iqn" / "CartPole-v1_1"
    names = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert {"CartPole-v1.zip", "CartPole-v1/config.yml", "CartPole-v1/args.yml", "evaluations.npz"} <= names
    assert saved(run / "CartPole-v1.zip")["num_timesteps"] == 300
    enjoy = ("enjoy", *AGENT, "-f", "downloaded", "--no-render", "-n", "600")
    assert "Mean reward" in sb3_distrl(tmp_path, *enjoy, **variables)


def test_load_from_hub_asks_for_trust(pushed: dict[str, bytes], tmp_path: Path, variables: dict[str, str]) -> None:
    """Loading an agent runs what its files say, so users have to agree; which is no reason for a traceback."""
    load = ("load_from_hub", *AGENT, "-orga", "someone", "-f", "downloaded")
    printed = sb3_distrl(tmp_path, *load, code=2, **variables)
    assert "TRUST_REMOTE_CODE" in printed and "Traceback" not in printed, printed


def test_pushing_again_updates(hub: Any, pushed: dict[str, bytes], folder: Path, variables: dict[str, str]) -> None:
    push = ("push_to_hub", *AGENT, "-f", "logs", "-orga", "someone", "--no-render", "--load-best", "-m", "The best")
    sb3_distrl(folder, *push, **variables)
    assert list(hub.files) == ["someone/iqn-CartPole-v1"]
    text = pushed["README.md"].decode()
    assert text.count("model-index") == 1 and text.count("sb3-distrl train") == 1


def test_an_agent_that_is_not_there(tmp_path: Path, variables: dict[str, str]) -> None:
    load = ("load_from_hub", *AGENT, "-orga", "nobody", "-f", "downloaded")
    printed = sb3_distrl(tmp_path, *load, code=2, TRUST_REMOTE_CODE="True", **variables)
    assert "nobody/iqn-CartPole-v1" in printed and "Traceback" not in printed, printed
