"""Volumes on a real directory: contents, atomic updates, subPath, limits."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from kubelet.pods.model import NodeFacts
from kubelet.pods.services import ConfigError, NodeSettings, VolumeError
from kubelet.volumes import atomic, directories
from kubelet.volumes import manager as volume_manager
from kubelet.volumes.manager import VolumeManager
from wherry.api.errors import NotFound, ServiceUnavailable
from wherry.pb import core_v1_pb2
from wherry.testing.builders import make_pod


class Objects:
    def __init__(self) -> None:
        self.config_maps: dict[str, core_v1_pb2.ConfigMap] = {}
        self.secrets: dict[str, core_v1_pb2.Secret] = {}
        self.away = False

    async def get(self, cls: Any, namespace: str, name: str) -> Any:
        if self.away:
            raise ServiceUnavailable("away")
        table: dict[str, Any] = self.config_maps if cls is core_v1_pb2.ConfigMap else self.secrets
        if name not in table:
            raise NotFound(f"{name} not found")
        return table[name]


class Tokens:
    def __init__(self) -> None:
        self.number = 1
        self.forgotten: list[str] = []

    async def get(self, pod: core_v1_pb2.Pod, audience: str, seconds: int) -> str:
        if not self.number:
            raise ServiceUnavailable("away")
        return f"{audience} {seconds} {self.number}"

    def forget(self, pod_uid: str) -> None:
        self.forgotten.append(pod_uid)


@pytest.fixture
def objects() -> Objects:
    made = Objects()
    made.config_maps["cm"] = core_v1_pb2.ConfigMap(data={"a": "1", "b": "2"}, binary_data={"bin": b"\0\1"})
    made.secrets["sec"] = core_v1_pb2.Secret(data={"k": b"v"})
    return made


@pytest.fixture
def manager(tmp_path: Path, objects: Objects) -> VolumeManager:
    settings = NodeSettings(NodeFacts("n1", ("192.0.2.1",)), allocatable={"cpu": "4"})
    return VolumeManager(tmp_path, objects, settings, Tokens(), lambda uid: ("10.0.0.9",))


def pod_with(**fields: Any) -> core_v1_pb2.Pod:
    pod = make_pod("p").labels(app="web").build()
    volume = pod.spec.volumes.add(name="v")
    volume.volume_source.CopyFrom(core_v1_pb2.VolumeSource(**fields))
    pod.spec.containers[0].volume_mounts.add(name="v", mount_path="/v")
    return pod


def config_map(**more: Any) -> core_v1_pb2.ConfigMapVolumeSource:
    made = core_v1_pb2.ConfigMapVolumeSource(**more)
    made.local_object_reference.name = "cm"
    return made


def contents(manager: VolumeManager, pod: core_v1_pb2.Pod) -> dict[str, bytes]:
    base = manager.path(pod, pod.spec.volumes[0])
    return {
        str(Path(at, name).relative_to(base)): Path(at, name).read_bytes()
        for at, dirs, names in os.walk(base, followlinks=True)
        for name in names
        if ".." not in str(Path(at, name).relative_to(base))
    }


async def test_config_map(manager: VolumeManager) -> None:
    pod = pod_with(config_map=config_map(default_mode=0o400))
    await manager.prepare(pod)
    assert contents(manager, pod) == {"a": b"1", "b": b"2", "bin": b"\0\1"}
    assert (manager.path(pod, pod.spec.volumes[0]) / "a").stat().st_mode & 0o777 == 0o400
    mount = manager.mounts(pod, pod.spec.containers[0], [])[0]
    assert (mount.container_path, mount.readonly) == ("/v", True)


async def test_items_choose_keys_paths_and_modes(manager: VolumeManager) -> None:
    item = core_v1_pb2.KeyToPath(key="a", path="deep/er/name", mode=0o600)
    pod = pod_with(config_map=config_map(items=[item]))
    await manager.prepare(pod)
    assert contents(manager, pod) == {"deep/er/name": b"1"}


async def test_an_update_swaps_everything_at_once(manager: VolumeManager, objects: Objects) -> None:
    pod = pod_with(config_map=config_map())
    await manager.prepare(pod)
    base = manager.path(pod, pod.spec.volumes[0])
    before = os.readlink(base / atomic.DATA)
    await manager.prepare(pod)
    assert os.readlink(base / atomic.DATA) == before, "nothing changed, so nothing is written"
    objects.config_maps["cm"] = core_v1_pb2.ConfigMap(data={"a": "9", "c": "3"})
    await manager.prepare(pod)
    assert contents(manager, pod) == {"a": b"9", "c": b"3"}
    assert os.readlink(base / atomic.DATA) != before
    assert sorted(entry.name for entry in base.iterdir() if entry.name.startswith("..2")) == [
        os.readlink(base / atomic.DATA)
    ]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = {"a": (b"1", 0o644)}, {"a": (b"2", 0o644), "b": (b"2", 0o644)}
    atomic.write(tmp_path, old)
    before = sorted(os.listdir(tmp_path))
    really = os.write

    def full(handle: int, data: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    for _ in range(3):
        with pytest.raises(OSError, match="No space left"):
            atomic.write(tmp_path, new)
    monkeypatch.setattr(os, "write", really)
    assert sorted(os.listdir(tmp_path)) == before
    assert atomic.current(tmp_path) == old
    assert atomic.write(tmp_path, new)


@pytest.mark.parametrize("again", ["the new", "the old"])
def test_a_write_that_was_killed_anywhere_is_made_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: str
) -> None:
    old: atomic.Payload = {"a": (b"1", 0o644), "gone/x": (b"1", 0o644)}
    new: atomic.Payload = {"a": (b"2", 0o644), "b": (b"2", 0o644), "c/d": (b"2", 0o600)}

    class Killed(BaseException):
        pass

    def run(directory: Path, lives_for: int) -> bool:
        """Killed before a call that changes the directory: nothing of ours runs after it."""
        calls = 0

        def count(real: Any) -> Any:
            def counted(*args: Any, **kwargs: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls > lives_for:
                    raise Killed
                return real(*args, **kwargs)

            return counted

        with monkeypatch.context() as patch:
            for name in ("mkdir", "open", "write", "fchmod", "symlink", "replace", "unlink"):
                patch.setattr(os, name, count(getattr(os, name)))
            patch.setattr(shutil, "rmtree", count(shutil.rmtree))
            try:
                atomic.write(directory, new)
            except Killed:
                return False
        return True

    lives_for, over = 0, False
    while not over:
        directory = tmp_path / str(lives_for)
        atomic.write(directory, old)
        over = run(directory, lives_for)
        lives_for += 1
        wanted = new if again == "the new" else old
        atomic.write(directory, wanted)
        assert atomic.current(directory) == wanted
        names = sorted({path.partition("/")[0] for path in wanted})
        assert sorted(os.listdir(directory)) == sorted([atomic.DATA, os.readlink(directory / atomic.DATA), *names])
        assert all((directory / path).read_bytes() == content for path, (content, _) in wanted.items())
    assert lives_for > 10


def test_a_writer_killed_half_way_leaves_the_old_contents(tmp_path: Path) -> None:
    atomic.write(tmp_path, {"a": (b"1", 0o644)})
    (tmp_path / "..2000_7").mkdir()
    (tmp_path / "..2000_7" / "a").write_bytes(b"half")
    (tmp_path / "..data_tmp").symlink_to("..2000_7")
    assert (tmp_path / "a").read_bytes() == b"1"
    atomic.write(tmp_path, {"a": (b"2", 0o644)})
    assert (tmp_path / "a").read_bytes() == b"2"
    assert len(list(tmp_path.glob("..2*"))) == 1


MISSING = {
    "config map": ({"config_map": config_map()}, "cm", 'configmap "cm" not found'),
    "secret": ({"secret": core_v1_pb2.SecretVolumeSource(secret_name="sec")}, "sec", 'secret "sec" not found'),
}


@pytest.mark.parametrize(("source", "name", "message"), MISSING.values(), ids=MISSING)
async def test_missing_objects(
    manager: VolumeManager, objects: Objects, source: dict[str, Any], name: str, message: str
) -> None:
    objects.config_maps.clear()
    objects.secrets.clear()
    with pytest.raises(VolumeError) as caught:
        await manager.prepare(pod_with(**source))
    assert caught.value.message == f'MountVolume.SetUp failed for volume "v" : {message}'


async def test_optional_sources_may_be_missing(manager: VolumeManager, objects: Objects) -> None:
    objects.config_maps.clear()
    pod = pod_with(config_map=config_map(optional=True))
    await manager.prepare(pod)
    assert contents(manager, pod) == {}


async def test_without_the_control_plane_the_contents_stay(manager: VolumeManager, objects: Objects) -> None:
    pod = pod_with(config_map=config_map())
    await manager.prepare(pod)
    objects.away = True
    await manager.prepare(pod)
    assert contents(manager, pod)["a"] == b"1"


async def test_projected(manager: VolumeManager) -> None:
    sources = [
        core_v1_pb2.VolumeProjection(config_map=core_v1_pb2.ConfigMapProjection()),
        core_v1_pb2.VolumeProjection(secret=core_v1_pb2.SecretProjection()),
        core_v1_pb2.VolumeProjection(
            downward_api=core_v1_pb2.DownwardAPIProjection(
                items=[
                    core_v1_pb2.DownwardAPIVolumeFile(
                        path="labels", field_ref=core_v1_pb2.ObjectFieldSelector(field_path="metadata.labels")
                    ),
                    core_v1_pb2.DownwardAPIVolumeFile(
                        path="cpu",
                        resource_field_ref=core_v1_pb2.ResourceFieldSelector(container_name="c", resource="limits.cpu"),
                    ),
                ]
            )
        ),
    ]
    sources[0].config_map.local_object_reference.name = "cm"
    sources[1].secret.local_object_reference.name = "sec"
    pod = pod_with(projected=core_v1_pb2.ProjectedVolumeSource(sources=sources))
    await manager.prepare(pod)
    assert contents(manager, pod) == {
        "a": b"1", "b": b"2", "bin": b"\0\1", "k": b"v", "labels": b'app="web"', "cpu": b"4",
    }  # fmt: skip


def projected_token(**more: Any) -> core_v1_pb2.ProjectedVolumeSource:
    token = core_v1_pb2.ServiceAccountTokenProjection(path="sub/token", expiration_seconds=600, **more)
    return core_v1_pb2.ProjectedVolumeSource(sources=[core_v1_pb2.VolumeProjection(service_account_token=token)])


async def test_service_account_tokens_are_projected_and_renewed(manager: VolumeManager) -> None:
    tokens: Any = manager._tokens
    pod = pod_with(projected=projected_token(audience="vault"))
    await manager.prepare(pod)
    assert contents(manager, pod)["sub/token"] == b"vault 600 1"
    tokens.number = 2
    await manager.prepare(pod)
    assert contents(manager, pod)["sub/token"] == b"vault 600 2"
    tokens.number = 0
    await manager.prepare(pod)
    assert contents(manager, pod)["sub/token"] == b"vault 600 2", "the old one stays while there is no other"
    await manager.teardown(pod.metadata.uid)
    assert tokens.forgotten == [pod.metadata.uid]


async def test_a_pod_does_not_start_without_its_token(manager: VolumeManager) -> None:
    tokens: Any = manager._tokens
    tokens.number = 0
    with pytest.raises(VolumeError, match=r'MountVolume\.SetUp failed for volume "v" : away'):
        await manager.prepare(pod_with(projected=projected_token()))


async def test_a_token_is_for_the_group_of_the_pod_alone(manager: VolumeManager) -> None:
    pod = pod_with(projected=projected_token())
    pod.spec.security_context.fs_group = os.getgid()
    await manager.prepare(pod)
    mode = (manager.path(pod, pod.spec.volumes[0]) / "sub" / "token").stat().st_mode
    assert mode & 0o777 == 0o640


async def test_unsupported_types_are_named(manager: VolumeManager) -> None:
    with pytest.raises(VolumeError, match="volumes of type nfs are not supported"):
        await manager.prepare(pod_with(nfs=core_v1_pb2.NFSVolumeSource(server="x", path="/")))


async def test_empty_dir_survives_a_second_prepare_and_goes_with_the_pod(manager: VolumeManager) -> None:
    pod = pod_with(empty_dir=core_v1_pb2.EmptyDirVolumeSource())
    await manager.prepare(pod)
    path = manager.path(pod, pod.spec.volumes[0])
    assert path.stat().st_mode & 0o777 == 0o777
    (path / "kept").write_text("x")
    await manager.prepare(pod)
    assert (path / "kept").exists()
    await manager.teardown(pod.metadata.uid)
    await manager.teardown(pod.metadata.uid)
    assert not path.exists()


async def test_size_limit(manager: VolumeManager) -> None:
    source = core_v1_pb2.EmptyDirVolumeSource()
    source.size_limit.string = "64Ki"
    pod = pod_with(empty_dir=source)
    await manager.prepare(pod)
    assert manager.over_limit(pod) == ""
    (manager.path(pod, pod.spec.volumes[0]) / "big").write_bytes(os.urandom(100_000))
    assert manager.over_limit(pod) == 'Usage of EmptyDir volume "v" exceeds the limit "64Ki". '


HOST_PATHS = {
    "untyped": ("", "nowhere", ""),
    "directory": ("Directory", "dir", ""),
    "file as directory": ("Directory", "file", "is not a directory"),
    "missing directory": ("Directory", "nowhere", "is not a directory"),
    "created": ("DirectoryOrCreate", "nowhere/deep", ""),
    "file created": ("FileOrCreate", "new", ""),
    "no socket": ("Socket", "file", "is not a socket file"),
    "unknown": ("Odd", "dir", "must be one of"),
}


@pytest.mark.parametrize(("kind", "name", "problem"), HOST_PATHS.values(), ids=HOST_PATHS)
async def test_host_path_types(manager: VolumeManager, tmp_path: Path, kind: str, name: str, problem: str) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").write_text("")
    pod = pod_with(host_path=core_v1_pb2.HostPathVolumeSource(path=str(tmp_path / name), type=kind))
    if problem:
        with pytest.raises(VolumeError, match=problem):
            await manager.prepare(pod)
        return
    await manager.prepare(pod)
    manager.mounts(pod, pod.spec.containers[0], [])
    assert (tmp_path / name).exists()
    await manager.teardown(pod.metadata.uid)
    assert (tmp_path / name).exists()


async def test_sub_paths_are_made_and_stay_inside(manager: VolumeManager) -> None:
    pod = pod_with(empty_dir=core_v1_pb2.EmptyDirVolumeSource())
    await manager.prepare(pod)
    container = pod.spec.containers[0]
    container.volume_mounts[0].sub_path_expr = "$(NAME)/logs"
    made = manager.mounts(pod, container, [("NAME", "web")])[0]
    assert made.host_path.endswith("/v/web/logs")
    assert Path(made.host_path).is_dir()  # noqa: ASYNC240  virtual time: nothing else runs
    container.volume_mounts[0].sub_path_expr = "../../x"
    with pytest.raises(ConfigError, match="must not contain"):
        manager.mounts(pod, container, [])
    (manager.path(pod, pod.spec.volumes[0]) / "link").symlink_to("/etc")
    container.volume_mounts[0].sub_path_expr = "link/passwd"
    with pytest.raises(ConfigError, match="leads out of the volume"):
        manager.mounts(pod, container, [])


@pytest.mark.root
async def test_memory_is_a_tmpfs_that_is_unmounted(manager: VolumeManager) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    source = core_v1_pb2.EmptyDirVolumeSource(medium="Memory")
    source.size_limit.string = "1Mi"
    pod = pod_with(empty_dir=source)
    await manager.prepare(pod)
    path = manager.path(pod, pod.spec.volumes[0])
    assert path.is_mount()
    assert os.statvfs(path).f_blocks * os.statvfs(path).f_frsize == 1 << 20
    await manager.teardown(pod.metadata.uid)
    assert not path.exists()


# -- without root


def test_what_cannot_be_given_to_a_group_is_everybodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directories, "may_give", lambda path, group: False)
    files = {"a": (b"1", 0o400), "b": (b"2", 0o640)}
    assert atomic.write(tmp_path, files, group=4711)
    assert [os.stat(tmp_path / name).st_mode & 0o777 for name in ("a", "b")] == [0o404, 0o644]
    assert not atomic.write(tmp_path, files, group=4711), "the same again"


async def test_memory_without_root_is_a_place_in_shared_memory(
    manager: VolumeManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manager, "_memory", tmp_path / "shm" / "wherry-x")
    (tmp_path / "shm").mkdir()
    pod = pod_with(empty_dir=core_v1_pb2.EmptyDirVolumeSource(medium="Memory"))
    place, path = tmp_path / "shm" / "wherry-x" / pod.metadata.uid / "v", manager.path(pod, pod.spec.volumes[0])
    for _ in range(2):
        await manager.prepare(pod)
        assert (path.readlink(), place.stat().st_mode & 0o777) == (place, 0o777)
    place.rmdir()  # a reboot
    await manager.prepare(pod)
    (path / "x").write_text("x")
    await manager.teardown(pod.metadata.uid)
    assert (path.is_symlink(), place.exists(), place.parent.exists()) == (False, False, False)


@pytest.mark.parametrize("there", ["wide", "link", "file", "foreign"])
async def test_a_place_in_shared_memory_that_somebody_took_first_is_refused(
    manager: VolumeManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str
) -> None:
    root, target = tmp_path / "wherry-x", tmp_path / "target"
    target.mkdir(mode=0o700)
    monkeypatch.setattr(manager, "_memory", root)
    pod = pod_with(empty_dir=core_v1_pb2.EmptyDirVolumeSource(medium="Memory"))
    said = {
        "wide": "is not ours alone .owner .*, mode 0777",
        "link": "is no directory .owner .*, mode l",
        "file": "is no directory",
    }
    if there == "link":
        (target / pod.metadata.uid).mkdir()
        root.symlink_to(target)
    elif there == "file":
        root.touch()
    else:
        root.mkdir(mode=0o700)
        if there == "wide":
            root.chmod(0o777)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: root.stat().st_uid + 1)
    with pytest.raises(VolumeError, match=f"wherry-x {said.get(there, 'is not ours alone .owner .*, mode 0700')}"):
        await manager.prepare(pod)
    await manager.teardown(pod.metadata.uid)
    assert (target / pod.metadata.uid).exists() == (there == "link")


async def test_what_others_have_left_is_swept_away(manager: VolumeManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where files belong to users that the agent is not."""
    pod = pod_with(empty_dir=core_v1_pb2.EmptyDirVolumeSource())
    await manager.prepare(pod)
    path = manager.path(pod, pod.spec.volumes[0])
    (path / "theirs").write_text("x")
    swept: list[Path] = []

    def remove(directory: Path) -> None:
        if not swept:
            raise PermissionError(13, "Permission denied", "theirs")
        shutil.rmtree(directory)

    async def sweep(directory: Path) -> None:
        swept.append(directory)

    monkeypatch.setattr(volume_manager, "_remove", remove)
    with pytest.raises(PermissionError):
        await manager.teardown(pod.metadata.uid)
    monkeypatch.setattr(manager, "_sweep", sweep)
    await manager.teardown(pod.metadata.uid)
    assert swept == [path.parent]
    assert not path.exists()
