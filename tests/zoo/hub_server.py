"""A Hub on the loopback device: the part of the Hub's HTTP interface that uploading and downloading a model needs."""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch, files):
        sha = hashlib.sha1(repr((branch, len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.branches[branch] = sha
        return sha

    def find(self, revision):
        sha = self.branches.get(revision, revision)
        return (sha, self.commits[sha]) if sha in self.commits else (None, None)


class LoopbackHub:
    """Serves repositories from memory; ``token`` may read and write, ``reader`` may only read.

    Attributes:
        requests: (method, path) of every request, in order.
        fail: maps a substring of a path to the status that it is answered with.
        sizes: maps a file's name to a size that the listing claims.
    """

    token, reader = "hf_writer", "hf_reader"

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.fail: dict[str, int] = {}
        self.sizes: dict[str, int] = {}
        self.cards: list[str] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()

    def files(self, repo_id, branch="main"):
        """The files at the tip of a branch; changing the dict changes what is served."""
        repository = self.repositories[repo_id]
        return repository.commits[repository.branches[branch]]

    def downloaded(self):
        return {path.rsplit("/", 1)[1] for method, path in self.requests if method == "GET" and "/resolve/" in path}


def _handler(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def do_GET(self):
            self.answer("GET")

        def do_HEAD(self):
            self.answer("HEAD")

        def do_POST(self):
            self.answer("POST")

        def do_PUT(self):
            self.answer("PUT")

        def answer(self, method):
            self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((method, path))
            for part, status in hub.fail.items():
                if part in path:
                    return self.send(status, {"error": f"told to answer {status}"})
            for known, pattern, act in ROUTES:
                if known == method and (match := re.fullmatch(pattern, path)):
                    return act(self, **match.groupdict())
            return self.send(404, {"error": f"no such address {path}"})

        def send(self, status, content=b"", **headers):
            raw = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(raw)

        def bearer(self):
            return (self.headers.get("Authorization") or "").removeprefix("Bearer ")

        def may_write(self):
            if self.bearer() == hub.token:
                return True
            if self.bearer() == hub.reader:
                self.send(403, {"error": "You don't have the rights"})
            else:
                self.send(401, {"error": "Invalid username or password."})
            return False

        def repository(self, repo_id):
            found = hub.repositories.get(repo_id)
            if found and (not found.private or self.bearer() in (hub.token, hub.reader)):
                return found
            self.send(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            return None

        def at_revision(self, repo_id, revision):
            repository = self.repository(repo_id)
            if repository is None:
                return None, None
            sha, files = repository.find(revision)
            if sha is None:
                self.send(404, {"error": f"Invalid rev id: {revision}"}, X_Error_Code="RevisionNotFound")
            return sha, files

        def create(self):
            if self.may_write():
                asked = json.loads(self.body)
                repo_id = f"{asked['organization'] or 'writer'}/{asked['name']}"
                url = f"{hub.endpoint}/{repo_id}"
                if repo_id in hub.repositories:
                    return self.send(409, {"error": "You already created this model repo", "url": url})
                hub.repositories[repo_id] = Repository(private=bool(asked.get("private")))
                hub.repositories[repo_id].commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"})
                return self.send(200, {"url": url})

        def branch(self, repo_id, branch):
            if self.may_write() and (repository := self.repository(repo_id)):
                if branch in repository.branches:
                    return self.send(409, {"error": "Reference already exists"})
                repository.branches[branch] = repository.branches["main"]
                return self.send(200, {})

        def validate_card(self):
            hub.cards.append(json.loads(self.body)["content"])
            self.send(200, {"errors": [], "warnings": []})

        def preupload(self, repo_id, revision):
            if self.may_write() and self.at_revision(repo_id, revision)[0]:
                files = [
                    {
                        "path": one["path"],
                        "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                    }
                    for one in json.loads(self.body)["files"]
                ]
                self.send(200, {"files": files})

        def lfs_batch(self, repo_id):
            if self.may_write():
                objects = []
                for one in json.loads(self.body)["objects"]:
                    href = f"{hub.endpoint}/lfs/{one['oid']}"
                    actions = {} if one["oid"] in hub.objects else {"actions": {"upload": {"href": href}}}
                    objects.append({"oid": one["oid"], "size": one["size"], **actions})
                self.send(200, {"transfer": "basic", "objects": objects})

        def lfs_put(self, oid):
            if hashlib.sha256(self.body).hexdigest() != oid:
                return self.send(400, {"error": "content does not match its oid"})
            hub.objects[oid] = self.body
            return self.send(200)

        def commit(self, repo_id, revision):
            if not (self.may_write() and (repository := self.repository(repo_id))):
                return None
            _, files = repository.find(revision)
            files = dict(files)
            for line in self.body.splitlines():
                one = json.loads(line)
                value = one["value"]
                if one["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif one["key"] == "lfsFile":
                    files[value["path"]] = hub.objects[value["oid"]]
            sha = repository.commit(revision, files)
            url = f"{hub.endpoint}/{repo_id}/commit/{sha}"
            return self.send(200, {"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

        def info(self, repo_id, revision="main"):
            sha, files = self.at_revision(repo_id, revision)
            if sha:
                siblings = [
                    {"rfilename": name, "size": hub.sizes.get(name, len(raw))} for name, raw in sorted(files.items())
                ]
                self.send(200, {"id": repo_id, "modelId": repo_id, "sha": sha, "private": False, "siblings": siblings})

        def resolve(self, repo_id, revision, name):
            sha, files = self.at_revision(repo_id, revision)
            if sha is None:
                return None
            if name not in files:
                return self.send(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
            etag = f'"{hashlib.sha256(files[name]).hexdigest()}"'
            return self.send(200, files[name], ETag=etag, X_Repo_Commit=sha)

    repo, rev = r"(?P<repo_id>[^/]+/[^/]+)", r"(?P<revision>[^/]+)"
    ROUTES = (
        ("POST", "/api/repos/create", Handler.create),
        ("POST", "/api/validate-yaml", Handler.validate_card),
        ("POST", rf"/api/models/{repo}/branch/(?P<branch>.+)", Handler.branch),
        ("POST", rf"/api/models/{repo}/preupload/{rev}", Handler.preupload),
        ("POST", rf"/{repo}\.git/info/lfs/objects/batch", Handler.lfs_batch),
        ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", Handler.lfs_put),
        ("POST", rf"/api/models/{repo}/commit/{rev}", Handler.commit),
        ("GET", rf"/api/models/{repo}/revision/{rev}", Handler.info),
        ("GET", rf"/api/models/{repo}", Handler.info),
        ("HEAD", rf"/{repo}/resolve/{rev}/(?P<name>.+)", Handler.resolve),
        ("GET", rf"/{repo}/resolve/{rev}/(?P<name>.+)", Handler.resolve),
    )
    return Handler
