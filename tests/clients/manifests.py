"""Checks Kubernetes objects against the published schemas of some versions, in which no field may be unknown.

    manifests.py FILE.yaml VERSION…

Prints one line of JSON: the objects, and what is wrong with them. Kinds that are not Kubernetes' own have no schema
here; of those, only the ones that `custom.mjs` checks are let pass.
"""

import json
import sys

import kubernetes_validate
import yaml


def wrong(it, version):
    try:
        kubernetes_validate.validate(it, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [".".join(map(str, error.path)) + ": " + error.message]
    except kubernetes_validate.SchemaNotFoundError as error:
        return [] if it["apiVersion"] == "monitoring.coreos.com/v1" else [error.message]
    return []


def main(file, *versions):
    with open(file, encoding="utf-8") as text:
        objects = [it for it in yaml.safe_load_all(text) if it]
    said = [
        f"{it['kind']} {it['metadata']['name']} ({version}): {what}"
        for it in objects
        for version in versions
        for what in wrong(it, version)
    ]
    print(json.dumps({"objects": objects, "wrong": said}))


if __name__ == "__main__":
    main(*sys.argv[1:])
