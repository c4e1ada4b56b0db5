//! Which settings the configuration accepts, and from which source.

use super::*;

const EXAMPLE: &str = include_str!("../../../../tidings.example.toml");

fn environment(variables: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    variables.iter().map(owned).collect()
}

fn load(file: &str, variables: &[(&str, &str)], flags: Flags) -> Result<Config, ConfigError> {
    let file = Some((Path::new("tidings.toml"), file));
    Config::of(file, &environment(variables), flags)
}

fn of_file(file: &str) -> Result<Config, ConfigError> {
    load(file, &[], Flags::default())
}

fn refused(file: &str) -> String {
    match of_file(file) {
        Ok(_) => panic!("{file:?} is taken"),
        Err(error) => error.to_string(),
    }
}

fn source_of(config: &Config, key: &str) -> (Option<String>, String) {
    let found = config.effective.iter().find(|value| value.key == key);
    let found = found.unwrap();
    (found.value.clone(), found.source.to_string())
}

#[test]
fn the_later_source_wins_and_is_shown() {
    let file = "[database]\nschema = \"of_file\"\n";
    let of_file = of_file(file).unwrap();
    let variables = [("TIDINGS_SCHEMA", "of_variable")];
    let of_variable = load(file, &variables, Flags::default()).unwrap();
    let flags = Flags {
        file: None,
        values: vec![(&SCHEMA, "--schema", "of_flag".into())],
    };
    let of_flag = load(file, &variables, flags).unwrap();

    let told = |config| {
        let (value, source) = source_of(config, "database.schema");
        format!("{} {source}", value.unwrap())
    };
    assert_eq!(told(&of_file), "of_file tidings.toml:2");
    assert_eq!(told(&of_variable), "of_variable environment TIDINGS_SCHEMA");
    assert_eq!(told(&of_flag), "of_flag flag --schema");
    assert_eq!(of_flag.schema, "of_flag");
}

#[test]
fn an_empty_configuration_is_complete() {
    let config = Config::of(None, &BTreeMap::new(), Flags::default()).unwrap();
    assert_eq!(config.nats.servers, ["nats://127.0.0.1:4222"]);
    assert_eq!(config.database.to_string(), "sqlite:tidings.db");
    assert_eq!(config.streams, [], "the program knows no events");
}

#[test]
fn an_unknown_key_is_reported_with_its_line_and_the_nearest() {
    let Err(error) = of_file("[nats]\nurl = \"nats://h\"\nusr = \"x\"\n") else {
        panic!("it is taken")
    };
    assert_eq!(
        error.to_string(),
        "tidings.toml:3: there is no setting nats.usr"
    );
    assert!(error.cure().unwrap().starts_with("nats.user"));
}

#[test]
fn unknown_sections_and_keys_of_streams_are_reported() {
    assert_eq!(
        refused("\n[natz]\nurl = \"x\"\n"),
        "tidings.toml:3: there is no setting natz.url"
    );
    assert_eq!(
        refused("source = 1\n"),
        "tidings.toml:1: there is no setting source"
    );
    let stream = "[[stream]]\nname = \"A\"\nsubjects = [\"a.>\"]\nreplica = 3\n";
    assert_eq!(
        refused(stream),
        "tidings.toml:4: there is no setting stream.replica"
    );
}

#[test]
fn an_unknown_variable_is_reported_and_foreign_ones_are_not() {
    let others = [
        ("TIDINGS_NATS_SERVER", "/x"),
        ("TIDINGS_POSTGRES_BIN", "/x"),
        ("TIDINGS_CONFIG", "x"),
    ];
    assert!(load("", &others, Flags::default()).is_ok());
    let Err(error) = load("", &[("TIDINGS_NATS_URI", "x")], Flags::default()) else {
        panic!("it is taken")
    };
    assert!(error.to_string().contains("TIDINGS_NATS_URI"));
    assert!(error.cure().unwrap().starts_with("TIDINGS_NATS_URL"));
}

#[test]
fn an_invalid_value_is_reported_with_its_line() {
    for (file, reason) in [
        ("[relay]\nlease = \"5\"", "is not a duration"),
        ("[relay]\nlease = \"0s\"", "write 100ms to 1h"),
        ("[relay]\nlease = \"1ms\"", "write 100ms to 1h"),
        ("[relay]\nlease = \"99999999999d\"", "write 100ms to 1h"),
        ("[relay]\nbatch = 1001", "from 1 to 1000"),
        ("[relay]\nbatch = 1.5", "a whole number"),
        ("[relay]\nretention = \"36501d\"", "at most 100 years"),
        ("[relay]\nstall_timeout = \"0s\"", "write 1ms to 100 years"),
        ("[log]\nformat = \"xml\"", "pretty"),
        ("[log]\nfilter = \"a=b=c\"", "log.filter"),
        ("[database]\nurl = \"mysql://u:s3cret@h\"", "sqlite:PATH"),
        ("[database]\nurl = true", "sqlite:PATH"),
        ("[database]\nurl = 1.5", "a string in quotes"),
        ("[database]\nurl = [\"a\"]", "a string in quotes"),
    ] {
        let message = refused(file);
        assert!(message.starts_with("tidings.toml:2: "), "{message}");
        assert!(message.contains(reason), "{message}");
        assert!(!message.contains("s3cret"), "{message}");
    }
}

/// The text of every fault.
fn faults(file: &str, variables: &[(&str, &str)]) -> Vec<String> {
    let mut faults = Faults::default();
    let file = Some((Path::new("tidings.toml"), file));
    let flags = Flags::default();
    let values = values_of(file, &environment(variables), flags.clone(), &mut faults);
    values.files(&mut faults);
    values.config(Origin::of(flags), &mut faults);
    faults.iter().map(ConfigError::text).collect()
}

#[test]
fn every_fault_is_reported_at_once() {
    let file = "[relay]\nlaese = \"5s\"\nbatch = 0\nretention = true\n[nats]\nurl = \"nats://h\"\nuser = \"ada\"\n\
        tls_first = 7\ntls_roots = \"none.pem\"\n[log]\nformat = \"xml\"\n[runtime]\nworker_threads = 0\n\
        [[stream]]\nname = \"a.b\"\nsubjects = [\"a.>\"]\n[[stream]]\nname = \"B\"\n";
    let found = faults(file, &[("TIDINGS_NATS_URI", "x")]);
    let expected = [
        "tidings.toml:2: there is no setting relay.laese",
        "tidings.toml:3: relay.batch cannot be used",
        "tidings.toml:4: relay.retention cannot be used",
        "tidings.toml:7: nats.user needs nats.password",
        "tidings.toml:8: nats.tls_first cannot be used",
        "tidings.toml:9: nats.tls_roots cannot be used: none.pem cannot be read",
        "tidings.toml:11: log.format cannot be used",
        "tidings.toml:13: runtime.worker_threads cannot be used: write a whole number from 1 to 1024",
        "tidings.toml:15: stream.name cannot be used",
        "tidings.toml:17: stream cannot be used: name and subjects",
        "there is no setting for the environment variable TIDINGS_NATS_URI",
    ];
    for expected in expected {
        let is_there = found.iter().any(|fault| fault.starts_with(expected));
        assert!(is_there, "{expected:?} is not in {found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    assert_eq!(faults(EXAMPLE, &[]), [""; 0]);
}

#[test]
fn a_fault_of_syntax_hides_no_other_line() {
    let found = faults(
        "[relay]\nbatch = \nlaese = \"5s\"\n[log]\nformat = \"xml\"\n",
        &[],
    );
    let lines = ["tidings.toml:2: ", "tidings.toml:3: ", "tidings.toml:5: "];
    for line in lines {
        let of_line = found.iter().filter(|fault| fault.starts_with(line));
        assert_eq!(of_line.count(), 1, "{line}: {found:#?}");
    }
    assert_eq!(found.len(), lines.len(), "{found:#?}");
}

#[test]
fn a_setting_has_changed_when_its_value_differs_even_a_secret() {
    let of = |text: &str| of_file(text).unwrap();
    let before = of("[nats]\ntoken = \"s3cret\"\n[relay]\nbatch = 10\n");
    let after = of(
        "[nats]\ntoken = \"other\"\n[relay]\nbatch = 10\nretention = \"1h\"\n\
         [[stream]]\nname = \"A\"\nsubjects = [\"a.>\"]\n",
    );
    let changes = before.changes(&after);
    let keys: Vec<&str> = changes.iter().map(|change| &*change.key).collect();
    assert_eq!(keys, ["nats.token", "relay.retention", "stream.A"]);
    let shown: Vec<_> = changes
        .iter()
        .map(|it| (it.old.as_deref(), it.new.as_deref()))
        .collect();
    assert_eq!(shown[0], (Some("***"), Some("***")));
    assert_eq!(shown[1], (Some("18h"), Some("1h")));
    assert_eq!(shown[2].0, None);
    assert_eq!(before.changes(&before), []);
}

#[test]
fn no_error_of_syntax_shows_the_line() {
    let message = refused("[nats]\npassword = \"s3cret\n");
    assert!(message.starts_with("tidings.toml:2: "), "{message}");
    assert!(!message.contains("s3cret"), "{message}");
}

#[test]
fn secrets_are_hidden_in_the_output() {
    let file = "[nats]\nurl = [\"nats://h1\", \"nats://h2\"]\nuser = \"ada\"\npassword = \"s3cret\"\n\
        [database]\nurl = \"postgres://ada:s3cret@h/db\"\n";
    let config = of_file(file).unwrap();
    let shown: Vec<String> = config
        .effective
        .iter()
        .filter_map(|e| e.value.clone())
        .collect();
    assert!(!shown.join(" ").contains("s3cret"), "{shown:?}");
    assert!(
        shown.contains(&"postgres://ada:***@h/db".to_owned()),
        "{shown:?}"
    );
    assert_eq!(config.database.to_string(), "postgres://ada:***@h/db");
    assert_eq!(config.nats.servers, ["nats://h1", "nats://h2"]);
}

#[test]
fn credentials_of_two_kinds_are_refused_and_both_are_named() {
    let Err(error) = load(
        "[nats]\ntoken = \"s3cret\"\n",
        &[("TIDINGS_NATS_NKEY_SEED", "SUsecret")],
        Flags::default(),
    ) else {
        panic!("they are taken")
    };
    assert_eq!(
        error.to_string(),
        "NATS credentials are given twice: nats.token (tidings.toml:2) and \
         nats.nkey_seed (environment TIDINGS_NATS_NKEY_SEED)"
    );
    assert!(refused("[nats]\nurl = \"nats://u:p@h\"\ntoken = \"t\"").contains("nats.url"));
}

#[test]
fn credentials_in_urls_must_be_the_same_for_all_servers() {
    let config = of_file("[nats]\nurl = [\"nats://u:p@h1\", \"h2\", \"nats://u:p@h3\"]").unwrap();
    assert_eq!(config.nats.servers, ["nats://h1", "h2", "nats://h3"]);
    assert_eq!(format!("{:?}", config.nats.auth), "User");
    let differ = refused("[nats]\nurl = [\"nats://u:s3cret@h1\", \"nats://u:other@h2\"]");
    assert!(differ.contains("different credentials"), "{differ}");
    let comma = refused("[nats]\nurl = \"nats://u:s3c,ret@h1\"");
    assert!(comma.contains("%2C") && !comma.contains("s3c"), "{comma}");
    assert!(of_file("[nats]\nurl = [\"nats://[::1]:4222/\", \"[::1]\", \"h\"]").is_ok());
    assert!(!differ.contains("s3cret"), "{differ}");
}

#[test]
fn half_of_a_pair_is_refused() {
    assert!(refused("[nats]\nuser = \"ada\"").contains("nats.user needs nats.password too"));
    assert!(refused("[nats]\npassword = \"p\"").contains("nats.password needs nats.user too"));
    assert!(refused("[nats]\ntls_key = \"k\"").contains("needs nats.tls_certificate too"));
}

#[test]
fn streams_are_read_from_file_and_environment_alike() {
    let file = "[[stream]]\nname = \"A\"\nsubjects = [\"a.>\"]\nreplicas = 3\nmax_age = \"7d\"\n\
        max_bytes = 1_000\nduplicate_window = \"5m\"\n";
    let variable = "[{ name = \"A\", subjects = [\"a.>\"], replicas = 3, max_age = \"7d\", \
        max_bytes = 1000, duplicate_window = \"5m\" }]";
    let of_file = of_file(file).unwrap();
    let of_variable = load("", &[("TIDINGS_STREAM", variable)], Flags::default()).unwrap();
    assert_eq!(of_file.streams, of_variable.streams);
    assert_eq!(
        of_file.streams[0].max_age,
        Some(Duration::from_secs(7 * 86_400))
    );
    assert_eq!(
        source_of(&of_variable, "stream.A").1,
        "environment TIDINGS_STREAM"
    );
}

#[test]
fn an_invalid_stream_is_refused() {
    for (stream, reason) in [
        ("name = \"A\"", "name and subjects are needed"),
        ("name = \"A\"\nsubjects = []", "needs a subject"),
        (
            "name = \"a.b\"\nsubjects = [\"a.>\"]",
            "is not a stream name",
        ),
        ("name = \"A\"\nsubjects = [\"a..b\"]", "is not a subject"),
        (
            "name = \"A\"\nsubjects = [\"a.>\"]\nreplicas = 2",
            "1, 3 or 5",
        ),
        (
            "name = \"A\"\nsubjects = [\"a.>\"]\nmax_age = \"1m\"",
            "max_age (60s) is below duplicate_window (120s)",
        ),
        (
            "name = \"A\"\nsubjects = [\"a.>\"]\nmax_bytes = 0",
            "max_bytes is 0",
        ),
        (
            "name = \"A\"\nsubjects = [\"a.*\", \"*.b\"]",
            "a.* and *.b overlap",
        ),
    ] {
        let message = refused(&format!("[[stream]]\n{stream}\n"));
        assert!(message.contains(reason), "{message}");
    }
    let twice = "[[stream]]\nname = \"A\"\nsubjects = [\"a.>\"]\n".repeat(2);
    assert!(refused(&twice).contains("two streams A"));
}

#[test]
fn every_key_of_the_example_is_valid_and_no_setting_is_missing() {
    // Each kind of credentials is tested alone: they exclude each other.
    let all = EXAMPLE.replace("\n# ", "\n#! ").replace("\n#", "\n");
    let all: String = all
        .lines()
        .filter(|line| !line.starts_with('!'))
        .map(|line| format!("{line}\n"))
        .collect();
    let mut faults = Faults::default();
    let layer = Text::of_file(Path::new("tidings.example.toml"), &all).read(&mut faults);
    assert!(faults.is_empty(), "{faults:?}\n{all}");
    for setting in settings::ALL {
        let given = layer
            .values
            .iter()
            .any(|(given, _)| given.key == setting.key);
        assert!(given, "{} is not in tidings.example.toml", setting.key);
        assert!(
            EXAMPLE.contains(setting.variable),
            "{} is not in tidings.example.toml",
            setting.variable
        );
    }
    assert!(layer.streams.is_some_and(|streams| !streams.is_empty()));
}

#[test]
fn the_example_as_it_is_gives_the_defaults() {
    let example = of_file(EXAMPLE).unwrap();
    let default = of_file("").unwrap();
    let values = |config: &Config| -> Vec<Option<String>> {
        config.effective.iter().map(|e| e.value.clone()).collect()
    };
    assert_eq!(values(&example), values(&default));
}

/// A configuration is either read or refused, with its location, and never with a secret.
#[test]
fn fuzz_configurations() {
    let seeds = [
        EXAMPLE.to_owned(),
        EXAMPLE.replace("\n#", "\n"),
        "[nats]\nurl = [\"nats://u:p@h:4222\", \"tls://t0ken@h\"]\ntls_first = true\n[database]\nurl = \
         \"postgres://ada:p@h/db?sslmode=require&password=x\"\nschema = \"a_b\"\n"
            .to_owned(),
        "[relay]\nlease = \"5s\"\nbatch = 100\nretention = 7\n[log]\nfilter = \
         \"info,tidings=debug\"\nformat = \"json\"\n"
            .to_owned(),
        "[[stream]]\nname = \"EVENTS\"\nsubjects = [\"user.>\", \"a.*.b\"]\nreplicas = 3\nmax_age = \"7d\"\n\
         max_bytes = 10_000\nduplicate_window = \"2m\"\n"
            .to_owned(),
    ];
    let seeds: Vec<&str> = seeds.iter().map(String::as_str).collect();
    tidings_fuzz::fuzz_text("configuration", &seeds, |text| match of_file(text) {
        Ok(_) => true,
        Err(error) => error.to_string().is_empty(),
    });
}

#[test]
fn fuzz_durations() {
    let seeds = [
        "250ms",
        "30s",
        "5m",
        "18h",
        "7d",
        "1.5s",
        "99999999999d",
        "0s",
    ];
    tidings_fuzz::fuzz_text("duration", &seeds, |text| {
        let parsed = duration::parse(text);
        // A formatted duration can be parsed again.
        parsed.is_ok_and(|parsed| duration::parse(&duration::show(parsed)) == Ok(parsed))
    });
}

#[test]
fn fuzz_urls_that_are_shown() {
    let seeds = [
        "nats://u:s3cret@h:4222,tls://s3cret@h2",
        "postgres://a:s3cret@h/db?password=s3cret&sslmode=require",
        "sqlite:outbox.db",
        ", , ,",
    ];
    tidings_fuzz::fuzz_text("shown url", &seeds, |url| {
        let _ = without_passwords(url);
        DatabaseUrl::parse(url).is_ok_and(|url| !url.to_string().is_empty())
    });
}

#[test]
fn fuzz_schema_names_streams_and_sources() {
    let seeds = ["tidings", "a_b", "user", "pg_x", "EVENTS"];
    tidings_fuzz::fuzz_text("stream name", &seeds, |name| {
        StreamSpec::new(name, []).is_ok()
    });
}

#[test]
fn the_manifests_for_kubernetes_configure_the_program() {
    const MAP: &str = include_str!("../../../../deploy/kubernetes/config.yaml");
    const RELAY: &str = include_str!("../../../../deploy/kubernetes/relay.yaml");
    let (_, block) = MAP.split_once("tidings.toml: |\n").unwrap();
    let lines = block
        .lines()
        .map(|line| line.strip_prefix("    ").unwrap_or(line));
    let file: Vec<&str> = lines.collect();
    let values = |name| match name {
        "TIDINGS_NATS_URL" => "nats://relay:secret@nats.nats.svc:4222",
        "TIDINGS_DATABASE_URL" => "postgres://relay:secret@db.db.svc:5432/tidings",
        "TIDINGS_CONFIG" => "/etc/tidings/tidings.toml",
        name => {
            let (_, rest) = RELAY.split_once(&format!("- name: {name}\n")).unwrap();
            let value = rest.trim_start().strip_prefix("value: ").unwrap();
            value.lines().next().unwrap().trim_matches('"')
        }
    };
    let names = RELAY.split("- name: TIDINGS_").skip(1);
    let names: Vec<String> = names
        .map(|rest| format!("TIDINGS_{}", rest.lines().next().unwrap()))
        .collect();
    let variables: Vec<_> = names.iter().map(|name| (&**name, values(name))).collect();
    let config = load(&file.join("\n"), &variables, Flags::default()).unwrap();
    assert_eq!(config.ops.listen.as_deref(), Some("0.0.0.0:9464"));
    assert!(config.ops.is_public);
    assert_eq!(config.streams.len(), 3);
}

#[test]
fn a_check_is_allowed_by_its_name() {
    use tidings::judge::IssueKind;

    let config = of_file("[doctor]\nallow = [\"one-copy\", \"pool\"]\n").unwrap();
    assert_eq!(config.allow, [IssueKind::OneCopy, IssueKind::Pool]);
    let variables = [("TIDINGS_DOCTOR_ALLOW", "window, unsynced")];
    let config = load("", &variables, Flags::default()).unwrap();
    assert_eq!(config.allow, [IssueKind::Window, IssueKind::Unsynced]);
    let said = refused("[doctor]\nallow = [\"one-cpy\"]\n");
    assert!(said.contains("there is no check \"one-cpy\""), "{said}");
    // A kind that no check finds is not silenced.
    let said = refused("[doctor]\nallow = [\"no-relay\"]\n");
    assert!(said.contains("there is no check"), "{said}");
}
