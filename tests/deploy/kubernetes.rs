//! The manifests of `deploy/kubernetes`.

use serde_json::{Value, json};

use crate::{files, no_more, schema::Schemas, text, yaml};

/// How long a worker drains by default, and what follows it (`src/worker.rs`), in seconds.
const DRAIN: i64 = 25 + 3 + 15;

/// Every manifest, with the path of its file.
fn manifests() -> Vec<(String, Value)> {
    let files = files("deploy/kubernetes", &[".yaml"]).into_iter();
    let documents = files.flat_map(|path| {
        let documents = yaml::documents(&text(&path)).into_iter();
        documents.map(move |document| (path.clone(), document))
    });
    documents.collect()
}

fn of_kind(kind: &str) -> Vec<Value> {
    let manifests = manifests().into_iter().map(|(_, manifest)| manifest);
    let found: Vec<_> = manifests
        .filter(|manifest| manifest["kind"] == kind)
        .collect();
    assert!(!found.is_empty(), "there is no {kind}");
    found
}

fn named(kind: &str, name: &str) -> Value {
    let mut found = of_kind(kind).into_iter();
    found
        .find(|manifest| manifest["metadata"]["name"] == name)
        .unwrap()
}

/// The pod specifications, with the name of what makes the pods.
fn pods() -> Vec<(String, Value)> {
    let makers = ["Deployment", "Job"].into_iter().flat_map(of_kind);
    let pods = makers.map(|maker| {
        let name = maker["metadata"]["name"].as_str().unwrap().to_owned();
        (name, maker["spec"]["template"]["spec"].clone())
    });
    pods.collect()
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    let lists = ["initContainers", "containers"].into_iter();
    lists.flat_map(|list| pod[list].as_array().into_iter().flatten())
}

#[test]
fn every_manifest_fits_its_schema() {
    let schemas = Schemas::read();
    let mut broken = Vec::new();
    for (path, manifest) in manifests() {
        let faults = schemas.faults(&manifest).into_iter();
        broken.extend(faults.map(|fault| format!("{path}: {fault}")));
    }
    no_more(&broken);
}

#[test]
fn a_manifest_with_a_fault_does_not_fit() {
    let schemas = Schemas::read();
    let relay = named("Deployment", "tidings-relay");
    let container = "/spec/template/spec/containers/0";
    let cases: [(&str, &str, Value); 5] = [
        ("/spec", "replica", json!(2)),
        (container, "livenessprobe", json!({})),
        (container, "args", json!("relay")),
        (
            &format!("{container}/readinessProbe"),
            "periodSeconds",
            json!("5s"),
        ),
        (
            &format!("{container}/readinessProbe/httpGet"),
            "port",
            json!(null),
        ),
    ];
    for (place, field, wrong) in cases {
        let mut manifest = relay.clone();
        manifest.pointer_mut(place).unwrap()[field] = wrong;
        let faults = schemas.faults(&manifest);
        assert_eq!(faults.len(), 1, "{place} {field}: {faults:?}");
        assert!(faults[0].contains(field), "{faults:?}");
    }
    let mut scaled = named("ScaledObject", "welcome-email");
    scaled["spec"]["triggers"][0]["metadata"]["targetValue"] = json!(1000);
    assert_eq!(schemas.faults(&scaled).len(), 1, "KEDA takes text only");
    let mut without = relay;
    without["spec"].as_object_mut().unwrap().remove("selector");
    assert_eq!(
        schemas.faults(&without),
        ["apps/v1 Deployment.spec: lacks \"selector\""]
    );
}

#[test]
fn every_name_that_a_manifest_refers_to_exists() {
    let mut broken = Vec::new();
    for (maker, pod) in pods() {
        for volume in pod["volumes"].as_array().into_iter().flatten() {
            let config = volume["configMap"]["name"].as_str().unwrap();
            named("ConfigMap", config);
        }
        let volumes: Vec<_> = pod["volumes"].as_array().into_iter().flatten().collect();
        for container in containers(&pod) {
            for mount in container["volumeMounts"].as_array().into_iter().flatten() {
                if !volumes.iter().any(|volume| volume["name"] == mount["name"]) {
                    broken.push(format!("{maker}: no volume {}", mount["name"]));
                }
            }
            for variable in container["env"].as_array().unwrap() {
                let Some(of) = variable["valueFrom"]["secretKeyRef"].as_object() else {
                    continue;
                };
                let secret = named("Secret", of["name"].as_str().unwrap());
                if secret["stringData"]
                    .get(of["key"].as_str().unwrap())
                    .is_none()
                {
                    broken.push(format!("{maker}: no secret {} {}", of["name"], of["key"]));
                }
            }
            for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
                let port = &container[probe]["httpGet"]["port"];
                let ports = container["ports"].as_array();
                let is_there = ports.into_iter().flatten().any(|one| one["name"] == *port);
                if !port.is_null() && !is_there {
                    broken.push(format!("{maker}: no port {port}"));
                }
            }
        }
    }
    for service in ["Service", "PodDisruptionBudget"]
        .into_iter()
        .flat_map(of_kind)
    {
        let selector = &service["spec"]["selector"];
        let selector = selector.get("matchLabels").unwrap_or(selector);
        let mut deployments = of_kind("Deployment").into_iter();
        let labels = |one: &Value| one["spec"]["template"]["metadata"]["labels"].clone();
        if !deployments.any(|one| has_labels(&labels(&one), selector)) {
            broken.push(format!("{}: selects no pod", service["metadata"]["name"]));
        }
    }
    for scaled in of_kind("ScaledObject") {
        let name = scaled["spec"]["scaleTargetRef"]["name"].as_str().unwrap();
        let deployment = named("Deployment", name);
        if deployment["spec"].get("replicas").is_some() {
            broken.push(format!("{name}: its replicas are set and scaled"));
        }
        named("Service", name);
        for trigger in scaled["spec"]["triggers"].as_array().unwrap() {
            let url = trigger["metadata"]["url"].as_str().unwrap();
            assert_eq!(url, format!("http://{name}.tidings.svc:9464/scale/{name}"));
        }
    }
    no_more(&broken);
}

fn has_labels(labels: &Value, selector: &Value) -> bool {
    let mut selected = selector.as_object().unwrap().iter();
    selected.all(|(name, value)| labels[name] == *value)
}

#[test]
fn the_monitor_finds_the_ports_of_all_services() {
    let [monitor] = &of_kind("ServiceMonitor")[..] else {
        panic!("several monitors");
    };
    let selector = &monitor["spec"]["selector"]["matchLabels"];
    let port = &monitor["spec"]["endpoints"][0]["port"];
    for service in of_kind("Service") {
        let name = &service["metadata"]["name"];
        assert!(
            has_labels(&service["metadata"]["labels"], selector),
            "{name}"
        );
        assert_eq!(service["spec"]["ports"][0]["name"], *port, "{name}");
        // What is stuck is not ready, and must be seen.
        assert_eq!(service["spec"]["publishNotReadyAddresses"], true, "{name}");
    }
}

#[test]
fn two_relays_survive_a_drained_node() {
    let relay = named("Deployment", "tidings-relay");
    assert_eq!(relay["spec"]["replicas"], 2);
    let budget = &named("PodDisruptionBudget", "tidings-relay")["spec"];
    assert_eq!(budget["maxUnavailable"], 1);
    assert_eq!(budget["unhealthyPodEvictionPolicy"], "AlwaysAllow");
    let apart = &relay["spec"]["template"]["spec"]["affinity"]["podAntiAffinity"];
    let apart = &apart["preferredDuringSchedulingIgnoredDuringExecution"][0]["podAffinityTerm"];
    assert_eq!(apart["topologyKey"], "kubernetes.io/hostname");
    assert_eq!(apart["labelSelector"], relay["spec"]["selector"]);
}

#[test]
fn probes_ask_what_they_are_for() {
    for deployment in of_kind("Deployment") {
        let pod = &deployment["spec"]["template"]["spec"];
        assert!(pod["terminationGracePeriodSeconds"].as_i64().unwrap() > DRAIN);
        let container = &pod["containers"][0];
        let path = |probe: &str| container[probe]["httpGet"]["path"].clone();
        assert_eq!(path("startupProbe"), "/readyz?of=startup");
        assert_eq!(path("livenessProbe"), "/livez");
        assert_eq!(path("readinessProbe"), "/readyz");
        let live = &container["livenessProbe"];
        assert!(
            live["timeoutSeconds"].as_i64().unwrap() >= 2,
            "a busy node is slow"
        );
        assert!(live["failureThreshold"].as_i64().unwrap() >= 3);
    }
}

#[test]
fn no_pod_has_more_rights_than_it_needs() {
    for (maker, pod) in pods() {
        assert_eq!(pod["automountServiceAccountToken"], false, "{maker}");
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{maker}");
        assert_eq!(
            pod["securityContext"]["seccompProfile"]["type"],
            "RuntimeDefault"
        );
        for container in containers(&pod) {
            let context = &container["securityContext"];
            assert_eq!(context["allowPrivilegeEscalation"], false, "{maker}");
            assert_eq!(context["readOnlyRootFilesystem"], true, "{maker}");
            assert_eq!(context["capabilities"]["drop"], json!(["ALL"]), "{maker}");
            assert!(
                container["resources"]["limits"].get("memory").is_some(),
                "{maker}"
            );
            let secrets = container["env"].as_array().unwrap().iter();
            let mut secrets = secrets.filter(|one| one["name"].as_str().unwrap().ends_with("_URL"));
            assert!(
                secrets.all(|one| one.get("value").is_none()),
                "{maker}: a URL in the open"
            );
        }
    }
}
