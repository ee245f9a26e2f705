"""Where Wherry's answers differ on purpose from those of the recorded API server, each with its reason, in one place.

By the test that replays the recordings, then by their number in the file. A difference that is not listed fails the test, and
so does one that is listed and no longer there. `UNCOMPARED` are the records that no test replays; tests/unit/test_recorded.py
checks that each other one is replayed.
"""

from __future__ import annotations

FRONT = "the HTTP front's: methods, media types, query parameters and bodies that do not decode; compared there"
DRY_RUN_TEXT = "a dry run there answers with the quantity as it was sent"
DRY_RUN_PORTS = "a dry run there does not look at ranges of ports; here it says what would happen"
CLIENT_ERROR = "the client's mistake is a 400 here, a 500 there"
OTHER_CLUSTER = "revisions of another cluster"
POLICIES = "needs what the registry alone does not have; see tests/contract/test_webhooks.py"

REGISTRY: dict[str, dict[int, str]] = {
    "defaults": {
        **dict.fromkeys(
            (1, 119), "of a definition that is there already; see tests/contract/test_custom_recordings.py"
        ),
        26: DRY_RUN_TEXT,
        27: DRY_RUN_TEXT,
        **dict.fromkeys((60, 61, 62, 63, 69), "protection finalizers come with the controller that takes them off"),
        124: "questions are answered by controlplane.auth; see tests/unit/auth/test_reviews.py",
        109: "the types of a policy are checked in the write itself, and not by a controller a moment later",
        66: "the status of a CSINode is newer than the recorded server",
    },
    "validation": {
        84: "stopSignal is behind a gate there and was dropped",
        232: DRY_RUN_PORTS,
        243: DRY_RUN_PORTS,
        **dict.fromkeys((348, 352), "a syntax error does not list all that could stand there"),
        398: "a MicroTime without a fraction is understood",
        419: FRONT,
        452: "shows the template as it is in JSON, not as a structure of another implementation",
        442: CLIENT_ERROR,
        **dict.fromkeys((494, 495, 498, 506, 510, 511, 512, 513, 540, 541), FRONT),
        **dict.fromkeys(
            (517, 526, 527, 528, 529, 538, 544), "a body that is no patch is refused before the object is looked for"
        ),
        547: FRONT,
        552: CLIENT_ERROR,
        553: CLIENT_ERROR,
        555: "the stale resourceVersion is seen first",
        **dict.fromkeys((571, 586, 588, 589, 590, 591, 592, 593, 594), FRONT),
        602: OTHER_CLUSTER,
        605: OTHER_CLUSTER,
        **dict.fromkeys((606, 607, 610, 612, 613, 617, 621), FRONT),
    },
    "patch": {
        32: "the cause names the patch and the kind; there the message is the whole object",
        34: "a controller owned the annotations there",
    },
    "apply": {29: CLIENT_ERROR, 30: CLIENT_ERROR},
    "flows": {
        44: CLIENT_ERROR,
        **dict.fromkeys((51, 52, 53, 54, 60), "of the HTTP front: sessions with a node"),
        63: "the status of a quota is made by its first charge, or by the controller, which does not run here",
        **dict.fromkeys((77, 78, 80, 81, 82), POLICIES),
    },
}

HTTP: dict[str, dict[int, str]] = {
    "validation": {},
    "discovery": {},
    "auth": {},
    "tables": {61: "IPAddress shows its age too"},
    "watch": {},
    "expired": {},
    "flows": {},
}
# What is wrong with a body, and with a few values, is said in words of our own and not in those of Go's parsers.
OWN_WORDS = (510, 511, 573, 614, 615, 616, 618, 619, 620)

# discovery.jsonl: by what a difference begins with.
DISCOVERY = {
    "customresourcedefinitions": "stored as v1 here, as v1beta1 there",
    "csinodes": "the schema is that of 1.37, where CSINode has a status",
    **dict.fromkeys(
        ("clustertrustbundles", "podcertificaterequests", "devicetaintrules"),
        "of a later version than the recorded server",
    ),
    "mutatingadmissionpolic": "stored as v1 here, as an earlier version there",
}

# Documents: by a pattern of "where: what".
OPENAPI = {
    r"PodSpec\.properties: with evictionResponders$": "of a later version than the recorded server",
    r"apps\.v1\.Deployment\.required: \['spec'\] instead of None$": "marked as required after the recorded version",
    r"parameters: without (ignoreStoreRead\w+|shardSelector)(,shardSelector)?$": "of features that are alpha or unsafe",
    r"(pods|services)/\{name\}/proxy": "what is below a proxy is the pod's to describe",
    r"^index (\.well-known|openid|version|apis?:|apis/[\w.]+:)": "paths that are no resources have no documents",
    r"^root /((health|live|ready)z/(poststarthook/|autoregister|etcd|loopback|informer|shutdown)|metrics/slis)": (
        "checks of components that are not here"
    ),
    r"^root /(flagz|statusz|openapi/v3/|healthz/log)": "pages about the other program",
}

# builtins.jsonl: objects that are there and not here, and those that are here only (there a namespace's account comes later).
BUILTINS_MISSING = {
    11: "the Service kubernetes comes with an address that pods reach; see tests/cluster",
    13: "tokens in Secrets are not tracked",
    14: "the controllers are one program here, with one identity",
    16: "elections are held only among several replicas, under a name of our own",
}
BUILTINS_MORE = {14: ("default",), 9: ("v1.storagemigration.k8s.io", "v1beta1.metrics.k8s.io")}

# Widgets: by what a name begins with.
CUSTOM = {
    "CRD several versions: spec.versions.1.storage": "the versions are shown in JSON and not as Go's structs",
    "Widget: bad metadata type": "what is wrong is said in words of our own",
    "Widget: bad label": "what is wrong is said in words of our own",
}

# tables.jsonl: whose rows are not compared.
ROWS = {
    "componentstatuses": "there are no components of their own to look at; see tests/unit/test_http_front.py",
    "ipaddresses": "there each row has one cell more than there are columns",
}

HISTORY = "of the history, or the future, of that cluster, part of which its watch cache still had"
UNCOMPARED: dict[tuple[str, int], str] = {
    **{("watch", number): HISTORY for number in (21, 23, 24, 25, 26, 27)},
    **{("expired", number): HISTORY for number in (1, 2, 4)},
    ("flows", 60): "there it is the server's error; see the tests of sessions with nodes",
    ("flows", 63): "the status of a quota is made by its first charge, or by the controller, which does not run there",
    ("scheduler", 4): "an empty cluster: see tests/unit/scheduler/test_cycle.py",
    **{("scheduler", number): "pods do not attract or repel each other yet" for number in (10, 15, 19)},
    ("scheduler", 11): "no volume is bound yet",
    **{("scheduler", number): "state, not an answer" for number in (1, 2, 3, 21, 22)},
}

# tests/contract/test_http_discovery.py: by group version and resource, what is served otherwise than resources.tsv and
# subresources.tsv say.
SERVED = dict.fromkeys(
    (("metrics.k8s.io/v1beta1", "nodes"), ("metrics.k8s.io/v1beta1", "pods")),
    "there it is served by a program of its own, which is installed separately",
)
# Named by discovery, and refused with 405 before the object is looked for.
REFUSED = dict.fromkeys((("PUT", "nodes/proxy"), ("POST", "nodes/proxy")), "what agents serve below it is for reading")
