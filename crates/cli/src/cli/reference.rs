//! The generated part of docs/reference/cli.md: every command with its usage, its help and its options, from what clap
//! knows of the program. Knows no command by name, and is compiled for tests only.

use clap::{Arg, ArgAction, Command, builder::PossibleValue};

/// Renders all commands of a program as Markdown, in the order of its help.
fn reference(mut program: Command) -> String {
    program.build();
    let name = program.get_name().to_owned();
    let globals: Vec<Arg> = visible_args(&program)
        .filter(|arg| arg.is_global_set())
        .cloned()
        .collect();
    let mut blocks = vec!["## Commands".to_owned(), index(&name, &program)];
    blocks.push("Every command also has these, and `--help`:".to_owned());
    blocks.extend(tables(&globals.iter().collect::<Vec<_>>()));
    for command in program.get_subcommands_mut().filter(|it| is_visible(it)) {
        blocks.extend(chapter(&name, command, &globals, 2));
    }
    blocks.join("\n\n") + "\n"
}

/// A heading, help, usage and options of a command, and then the same of each command below it.
fn chapter(above: &str, command: &mut Command, globals: &[Arg], level: usize) -> Vec<String> {
    let name = format!("{above} {}", command.get_name());
    let mut blocks = vec![format!("{} {name}", "#".repeat(level))];
    let help = command.get_long_about().or(command.get_about());
    blocks.extend(help.map(|help| paragraphs(&help.to_string())));
    blocks.push(usage(command));
    let is_global = |arg: &Arg| globals.iter().any(|global| global.get_id() == arg.get_id());
    let own: Vec<&Arg> = visible_args(command)
        .filter(|arg| !is_global(arg))
        .collect();
    blocks.extend(tables(&own));
    if command.get_subcommands().any(is_visible) {
        blocks.push(index(&name, command));
    }
    let below = command.get_subcommands_mut().filter(|it| is_visible(it));
    blocks.extend(below.flat_map(|it| chapter(&name, it, globals, level + 1)));
    blocks
}

/// What clap prints as usage, in a block of code.
fn usage(command: &mut Command) -> String {
    let usage = command.render_usage().to_string();
    let lines = usage.trim_start_matches("Usage:").lines();
    let lines: Vec<&str> = lines.map(str::trim).collect();
    format!("```text\n{}\n```", lines.join("\n"))
}

/// The commands directly below one, with links.
fn index(name: &str, command: &Command) -> String {
    let row = |command: &Command| {
        let name = format!("{name} {}", command.get_name());
        let about = command.get_about().map(ToString::to_string);
        let about = text(&about.unwrap_or_default());
        format!("| [`{name}`](#{}) | {about} |", name.replace(' ', "-"))
    };
    let rows: Vec<String> = command
        .get_subcommands()
        .filter(|it| is_visible(it))
        .map(row)
        .collect();
    format!("| command | does |\n|---|---|\n{}", rows.join("\n"))
}

/// Arguments, then options, then each group of options that has a heading of its own.
fn tables(args: &[&Arg]) -> Vec<String> {
    let heading = |arg: &Arg| match (arg.is_positional(), arg.get_help_heading()) {
        (true, _) => "argument".to_owned(),
        (false, None) => "option".to_owned(),
        (false, Some(heading)) => heading.to_lowercase(),
    };
    let mut headings = vec!["argument".to_owned(), "option".to_owned()];
    for arg in args {
        if !headings.contains(&heading(arg)) {
            headings.push(heading(arg));
        }
    }
    let table = |head: String| {
        let rows: Vec<String> = args
            .iter()
            .filter(|arg| heading(arg) == head)
            .map(|arg| row(arg))
            .collect();
        (!rows.is_empty()).then(|| format!("| {head} | meaning |\n|---|---|\n{}", rows.join("\n")))
    };
    headings.into_iter().filter_map(table).collect()
}

/// One argument or option, with its default and its possible values as `--help` prints them.
fn row(arg: &Arg) -> String {
    // Clap prints the long name only.
    let short = match (arg.get_short(), arg.get_long()) {
        (Some(short), Some(_)) => format!("-{short}, "),
        _ => String::new(),
    };
    let name = format!("{short}{arg}").replace('|', "\\|");
    let help = arg.get_long_help().or(arg.get_help());
    let help = help.map(ToString::to_string).unwrap_or_default();
    let mut cell = text(&help).replace("\n\n", "<br>");
    if arg.get_action().takes_values() {
        let defaults = arg.get_default_values().iter();
        let defaults: Vec<_> = defaults.map(|value| value.to_string_lossy()).collect();
        if !defaults.is_empty() {
            cell.push_str(&format!(" [default: {}]", text(&defaults.join(", "))));
        }
        cell.push_str(&values(&arg.get_possible_values()));
    }
    format!("| `{name}` | {} |", cell.trim_start())
}

/// Possible values in one line, or one a line when they are explained.
fn values(values: &[PossibleValue]) -> String {
    let visible = || values.iter().filter(|value| !value.is_hide_set());
    let line = |value: &PossibleValue| {
        let help = value.get_help().map(ToString::to_string);
        let help = text(&help.unwrap_or_default());
        format!("<br>`{}`: {help}", value.get_name())
    };
    if visible().any(|value| value.get_help().is_some()) {
        return visible().map(line).collect();
    }
    let names: Vec<_> = visible().map(PossibleValue::get_name).collect();
    match names.is_empty() {
        true => String::new(),
        false => format!(" [possible values: {}]", names.join(", ")),
    }
}

/// What is not hidden, less the help and the version that every command of clap has.
fn visible_args(command: &Command) -> impl Iterator<Item = &Arg> {
    let args = command.get_arguments().filter(|arg| !arg.is_hide_set());
    args.filter(|arg| {
        !matches!(
            arg.get_action(),
            ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version
        )
    })
}

fn is_visible(command: &Command) -> bool {
    !command.is_hide_set() && command.get_name() != "help"
}

/// Help as paragraphs, each a whole sentence.
fn paragraphs(help: &str) -> String {
    let sentences = help.split("\n\n").map(|paragraph| {
        let paragraph = text(paragraph);
        match paragraph.ends_with(['.', ':']) {
            true => paragraph,
            false => paragraph + ".",
        }
    });
    sentences.collect::<Vec<_>>().join("\n\n")
}

/// Text of a help as Markdown that may stand in a table; what is in backticks stays code.
fn text(help: &str) -> String {
    let mut markdown = String::new();
    let mut is_code = false;
    for c in help.chars() {
        is_code ^= c == '`';
        if c == '|' || (!is_code && matches!(c, '<' | '*')) {
            markdown.push('\\');
        }
        markdown.push(c);
    }
    markdown
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/cli.md");
    /// The last line that is written by hand.
    const MARK: &str =
        "<!-- From here on generated: UPDATE_GOLDENS=1 cargo test -p tidings-cli reference -->\n\n";

    #[test]
    fn the_reference_of_the_command_line_is_what_the_program_knows() {
        let document = fs::read_to_string(DOCUMENT).unwrap();
        let (by_hand, generated) = document.split_once(MARK).unwrap();
        let expected = reference(Cli::command());
        if std::env::var("UPDATE_GOLDENS").is_ok_and(|value| value == "1") {
            return fs::write(DOCUMENT, format!("{by_hand}{MARK}{expected}")).unwrap();
        }
        let mut lines = generated.lines().zip(expected.lines());
        let differs = lines.find(|(is, should)| is != should);
        assert!(
            generated == expected,
            "docs/reference/cli.md is not what the program knows (from {differs:?} on): \
             UPDATE_GOLDENS=1 cargo test -p tidings-cli reference"
        );
    }

    #[test]
    fn a_command_is_rendered_with_its_visible_options() {
        let verbose = Arg::new("verbose").long("verbose").short('v').global(true);
        let since = Arg::new("since").long("since").value_name("5m|TIME");
        let depth = Arg::new("depth").long("depth").default_value("3");
        let dig = Command::new("dig")
            .about("Dig a hole")
            .long_about("Dig a hole\n\nUses a spade | a shovel.")
            .arg(Arg::new("place").required(true).help("Where"))
            .arg(since.help("Not before <TIME>, see `a_b`"))
            .arg(depth.help_heading("Size").value_parser(["3", "4"]))
            .arg(Arg::new("secret").long("secret").hide(true));
        let program = Command::new("garden")
            .arg(verbose.action(ArgAction::SetTrue).help("Say more"))
            .subcommand_required(true)
            .subcommand(dig)
            .subcommand(Command::new("inner").hide(true));
        let expected = "\
## Commands

| command | does |
|---|---|
| [`garden dig`](#garden-dig) | Dig a hole |

Every command also has these, and `--help`:

| option | meaning |
|---|---|
| `-v, --verbose` | Say more |

## garden dig

Dig a hole.

Uses a spade \\| a shovel.

```text
garden dig [OPTIONS] <place>
```

| argument | meaning |
|---|---|
| `<place>` | Where |

| option | meaning |
|---|---|
| `--since <5m\\|TIME>` | Not before \\<TIME>, see `a_b` |

| size | meaning |
|---|---|
| `--depth <depth>` | [default: 3] [possible values: 3, 4] |
";
        assert_eq!(reference(program), expected);
    }
}
