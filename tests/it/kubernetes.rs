//! `docker/kubernetes`, as kustomize renders it: against the schemas that Kubernetes publishes, and against what
//! tabproxy itself would say to it. No cluster is needed, and none is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;
use serde_json::{Value, json};
use tabproxy::config::Settings;
use tempfile::TempDir;

use crate::sdks::{file, node, python, run};

/// The oldest version that has everything that is used (containers that are kept running beside the others), and the
/// newest that there are schemas of.
const VERSIONS: [&str; 2] = ["1.29.0", "1.37.0"];

fn all() -> PathBuf {
    file("docker/kubernetes")
}

/// The names of the directories in this one.
fn dirs(of: &str) -> Vec<String> {
    let entries = fs::read_dir(all().join(of)).unwrap().map(|it| it.unwrap().file_name());
    let mut names: Vec<_> = entries.map(|it| it.into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

/// What kustomize makes of a directory; `None` where there is none, which is said.
fn render(dir: &Path) -> Option<String> {
    for (program, word) in [("kustomize", "build"), ("kubectl", "kustomize")] {
        let Ok(output) = Command::new(program).arg(word).arg(dir).output() else { continue };
        let said = String::from_utf8(output.stderr).unwrap();
        // A warning is of what will not be taken some day.
        assert!(output.status.success() && said.is_empty(), "{}: {said}", dir.display());
        return Some(String::from_utf8(output.stdout).unwrap());
    }
    println!("skipped: neither kustomize nor kubectl is here");
    None
}

/// The objects in a text, and what the schemas refuse in them.
async fn check(yaml: &str) -> (Vec<Value>, Vec<String>) {
    let home = TempDir::new().unwrap();
    let path = home.path().join("all.yaml");
    fs::write(&path, yaml).unwrap();
    let mut command = python();
    command.arg(file("tests/clients/manifests.py")).arg(&path).args(VERSIONS);
    let (said, _) = run(command).await;
    let objects = said["objects"].as_array().unwrap().clone();
    let custom: Vec<_> =
        objects.iter().filter(|it| it["apiVersion"] == "monitoring.coreos.com/v1").cloned().collect();
    let mut wrong = texts(&said["wrong"]);
    if !custom.is_empty() {
        wrong.extend(texts(&run(node("custom.mjs", &json!({"objects": custom}))).await.0["wrong"]));
    }
    (objects, wrong)
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|it| it.as_str().unwrap().to_owned()).collect()
}

/// The base and each overlay, rendered; `None` where that cannot be.
async fn rendered() -> Option<BTreeMap<String, Vec<Value>>> {
    let mut all_of_them = BTreeMap::new();
    for name in dirs("overlays").iter().map(|it| format!("overlays/{it}")).chain(["base".into()]) {
        let (objects, wrong) = check(&render(&all().join(&name))?).await;
        assert_eq!(wrong, Vec::<String>::new(), "{name}");
        assert!(objects.len() >= 8, "{name}: {}", objects.len());
        all_of_them.insert(name, objects);
    }
    Some(all_of_them)
}

fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = objects.iter().find(|it| {
        it["kind"] == kind && it["metadata"]["name"].as_str().is_some_and(|it| it.starts_with(name))
    });
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

/// The pods that objects make, with their containers.
fn pods(objects: &[Value]) -> impl Iterator<Item = (&str, &Value, Vec<&Value>)> {
    objects.iter().filter(|it| it["spec"]["template"].is_object()).map(|it| {
        let spec = &it["spec"]["template"]["spec"];
        let lists = ["initContainers", "containers"].map(|it| spec[it].as_array());
        let containers = lists.into_iter().flatten().flatten().collect();
        (it["metadata"]["name"].as_str().unwrap(), spec, containers)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_file_is_of_the_published_schemas_and_a_broken_one_is_refused() {
    let mut whole = String::new();
    for dir in dirs("components").iter().map(|it| format!("components/{it}")).chain(["base".into()]) {
        for entry in fs::read_dir(all().join(&dir)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let is_patch = dir != "base" && name == "statefulset.yaml";
            if name.ends_with(".yaml")
                && !is_patch
                && !["kustomization.yaml", "prometheus-adapter.yaml"].contains(&name)
            {
                whole += &format!("---\n{}", fs::read_to_string(&path).unwrap());
            }
        }
    }
    let (objects, wrong) = check(&whole).await;
    assert_eq!(wrong, Vec::<String>::new());
    for kind in [
        "StatefulSet",
        "Service",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "HorizontalPodAutoscaler",
        "ServiceMonitor",
        "Ingress",
    ] {
        assert!(objects.iter().any(|it| it["kind"] == kind), "no {kind}");
    }

    for (right, broken, word) in [
        (
            "terminationGracePeriodSeconds: 150",
            "terminationGracePeriodSeconds: soon",
            "'soon' is not of type",
        ),
        ("readOnlyRootFilesystem: true", "readOnlyRootFileSystem: true", "readOnlyRootFileSystem"),
        ("apiVersion: autoscaling/v2", "apiVersion: autoscaling/v3", "HorizontalPodAutoscaler"),
        ("interval: 15s", "interval: soon", "interval must match"),
        ("upstream-hash-by: $http", "upstream-hash-by: 7 #", "7 is not of type"),
    ] {
        assert!(whole.contains(right), "{right}");
        let (_, wrong) = check(&whole.replacen(right, broken, 1)).await;
        assert!(!wrong.is_empty() && wrong.iter().all(|it| it.contains(word)), "{broken}: {wrong:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_overlay_renders_and_holds_what_it_promises() {
    let Some(all_of_them) = rendered().await else { return };
    let options = Settings::augment_args(clap::Command::new("serve"));
    let known: BTreeSet<&OsStr> = options.get_arguments().filter_map(clap::Arg::get_env).collect();
    assert!(known.len() > 30);
    for (overlay, objects) in &all_of_them {
        for (pod, spec, containers) in pods(objects) {
            let of_pod = &spec["securityContext"];
            assert_eq!(of_pod["runAsNonRoot"], true, "{overlay} {pod}");
            assert!(of_pod["seccompProfile"]["type"].is_string(), "{overlay} {pod}");
            assert_eq!(spec["automountServiceAccountToken"], false, "{overlay} {pod}");
            for container in containers {
                let name = &container["name"];
                let security = &container["securityContext"];
                assert_eq!(security["readOnlyRootFilesystem"], true, "{overlay} {pod} {name}");
                assert_eq!(security["allowPrivilegeEscalation"], false, "{overlay} {pod} {name}");
                assert_eq!(security["capabilities"]["drop"], json!(["ALL"]), "{overlay} {pod} {name}");
                assert!(container["resources"]["limits"]["memory"].is_string(), "{overlay} {pod} {name}");
            }
        }
        let instance = find(objects, "StatefulSet", "tabproxy");
        let spec = &instance["spec"]["template"]["spec"];
        let settings = &find(objects, "ConfigMap", "tabproxy-settings")["data"];
        let ours = spec["containers"].as_array().unwrap().iter().find(|it| it["name"] == "tabproxy").unwrap();

        // What it is told, it takes; and nothing of it is unheard of.
        let told: BTreeMap<&str, &str> = settings
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, it)| (name.as_str(), it.as_str().unwrap()))
            .collect();
        let lookup = |name: &str| {
            // The certificate of the practice site is there once that runs.
            let value = told.get(name).filter(|_| name != "TABPROXY_TRUST_CERT")?;
            Some((*value).to_owned())
        };
        let with_home =
            |name: &str| lookup(name).or((name == "HOME").then(|| "/var/lib/tabproxy".to_owned()));
        let config = Settings::default().check(&with_home).unwrap();
        let refs = ours["env"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap());
        for name in told.keys().copied().chain(refs).filter(|it| it.starts_with("TABPROXY_")) {
            assert!(known.contains(OsStr::new(name)), "{overlay}: {name}");
        }

        // It is killed only after it could have left.
        let stop = &ours["lifecycle"]["preStop"]["exec"]["command"];
        assert_eq!(stop[0], "sleep");
        let sleep: u64 = stop[1].as_str().unwrap().parse().unwrap();
        let grace = spec["terminationGracePeriodSeconds"].as_u64().unwrap();
        assert!(grace >= sleep + (config.drain_grace + config.drain).as_secs() + 15, "{overlay}: {grace}");

        // A person may take any time to sign in: nothing but readiness depends on that.
        for (probe, path) in
            [("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")]
        {
            assert_eq!(ours[probe]["httpGet"]["path"], path, "{overlay} {probe}");
        }
        let shm = spec["volumes"].as_array().unwrap().iter().find(|it| it["name"] == "shm").unwrap();
        assert_eq!(shm["emptyDir"]["medium"], "Memory");
        assert!(instance["spec"]["volumeClaimTemplates"][0].is_object());

        // The one port that anybody can reach.
        assert_eq!(ours["ports"], json!([{"name": "http", "containerPort": 3000}]), "{overlay}");
        for policy in objects.iter().filter(|it| it["kind"] == "NetworkPolicy") {
            let is_ours =
                policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/name"] == "tabproxy";
            for rule in policy["spec"]["ingress"].as_array().into_iter().flatten().filter(|_| is_ours) {
                assert_eq!(rule["ports"], json!([{"protocol": "TCP", "port": "http"}]), "{overlay}");
                assert!(
                    rule["from"].as_array().is_some_and(|it| !it.is_empty()),
                    "{overlay}: from nobody is from all"
                );
            }
        }
        let closed = find(objects, "NetworkPolicy", "nobody");
        assert_eq!(closed["spec"], json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}));
    }
    let used: String = dirs("overlays")
        .iter()
        .map(|it| fs::read_to_string(all().join("overlays").join(it).join("kustomization.yaml")).unwrap())
        .collect();
    for component in dirs("components") {
        assert!(used.contains(&format!("../../components/{component}\n")), "no overlay has {component}");
    }
    let whole = &all_of_them["overlays/whole"];
    let scaler = find(whole, "HorizontalPodAutoscaler", "tabproxy");
    let metric = scaler["spec"]["metrics"][0]["pods"]["metric"]["name"].as_str().unwrap();
    let figures = fs::read_to_string(file("src/telemetry/metrics.rs")).unwrap();
    assert!(figures.contains(&format!("r.register(\"{metric}\"")), "{metric}");
    let replicas = &find(whole, "StatefulSet", "tabproxy")["spec"]["replicas"];
    assert!(replicas.is_null(), "the autoscaler's business: {replicas}");
}

/// Kubelets hand a profile to the runtime in the form of the OCI, which has no conditions: containerd leaves Docker's
/// out, and everything behind one would be allowed. So there is a second file, and this is what it is made of.
#[test]
fn the_seccomp_profile_for_kubelets_is_that_for_docker_with_its_conditions_resolved() {
    let read = |path: &str| serde_json::from_str::<Value>(&fs::read_to_string(file(path)).unwrap()).unwrap();
    let (docker, kubelet) = (read("docker/seccomp.json"), read("docker/kubernetes/seccomp/tabproxy.json"));
    // The container has no capability at all, and runs on one of these.
    let ours = ["amd64", "x86", "x32", "arm64", "arm"];
    let is_ours = |list: &Value| texts(list).iter().any(|it| ours.contains(&it.as_str()));
    let applies = |rule: &&Value| {
        let (only, never) = (&rule["includes"], &rule["excludes"]);
        only["caps"].is_null()
            && (only["arches"].is_null() || is_ours(&only["arches"]))
            && (never["arches"].is_null() || !is_ours(&never["arches"]))
    };
    let plain = |rule: &Value| {
        let parts = ["names", "action", "args", "errnoRet"].into_iter();
        Value::from_iter(parts.filter(|it| !rule[it].is_null()).map(|it| (it, rule[it].clone())))
    };
    let rules: Vec<_> = docker["syscalls"].as_array().unwrap().iter().filter(applies).map(plain).collect();
    assert!(rules.len() > 10);
    assert_eq!(kubelet["syscalls"], Value::from(rules));
    for name in ["defaultAction", "defaultErrnoRet"] {
        assert_eq!(kubelet[name], docker[name], "{name}");
    }
    let known = ["defaultAction", "defaultErrnoRet", "architectures", "syscalls"];
    assert!(kubelet.as_object().unwrap().keys().all(|it| known.contains(&it.as_str())));
}
