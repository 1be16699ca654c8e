//! The flags of all settings, from their table.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use toml::Value;

use crate::config::{Flag, Kind, SETTINGS, Setting};

/// The settings that were typed, by flag.
#[derive(Debug, Clone, Default)]
pub(super) struct SettingArguments(pub(super) Vec<(String, Value)>);

impl Args for SettingArguments {
    fn augment_args(command: Command) -> Command {
        command.args(SETTINGS.iter().flat_map(arguments))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingArguments {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut typed = Vec::new();
        for setting in SETTINGS {
            for argument in arguments(setting) {
                let id = argument.get_id().as_str();
                if matches.value_source(id) == Some(clap::parser::ValueSource::CommandLine) {
                    typed.push((id.to_owned(), value(setting, id, matches)));
                }
            }
        }
        Ok(Self(typed))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.extend(Self::from_arg_matches(matches)?.0);
        Ok(())
    }
}

/// What was typed behind a flag; its parser has accepted it.
fn value(setting: &Setting, id: &str, matches: &ArgMatches) -> Value {
    let texts: Vec<String> =
        matches.get_raw(id).into_iter().flatten().map(|text| text.to_string_lossy().into_owned()).collect();
    match (setting.kind, texts.first()) {
        (Kind::Switch, _) | (_, None) => Value::from(true),
        (Kind::List | Kind::Choices(_), _) => Value::from(texts),
        (kind, Some(text)) => kind.read(text).unwrap_or_else(|_| Value::from(text.as_str())),
    }
}

/// The flag of a setting, its opposite and its former name, as far as there are such.
fn arguments(setting: &Setting) -> Vec<Arg> {
    let (key, off) = (setting.key, format!("no_{}", setting.key));
    let shown = |id: &str, help: String| {
        let argument = Arg::new(id.to_owned()).long(id.replace('_', "-")).help(help).hide(setting.heading.is_none());
        argument.help_heading(setting.heading)
    };
    let switch = |id: &str, help: String| shown(id, help).action(ArgAction::SetTrue);
    match setting.flag {
        Flag::None => Vec::new(),
        Flag::On => vec![switch(key, setting.help())],
        Flag::Off(help) => vec![switch(&off, help.to_owned())],
        Flag::OnOff(help) => vec![
            switch(key, setting.help()).overrides_with(off.clone()),
            switch(&off, help.to_owned()).overrides_with(key),
        ],
        Flag::Value(name) => {
            let with_value = |id: &str| takes(shown(id, setting.help()).value_name(name), setting.kind);
            let former = setting.alias.map(|alias| with_value(alias).hide(true).overrides_with(key));
            [with_value(key)].into_iter().chain(former).collect()
        }
    }
}

/// An argument with values of this kind.
fn takes(argument: Arg, kind: Kind) -> Arg {
    let several = |argument: Arg| argument.num_args(1..).value_delimiter(',').action(ArgAction::Append);
    match kind {
        Kind::Path => argument.value_parser(clap::builder::NonEmptyStringValueParser::new()),
        Kind::Number(parser) | Kind::Choice(parser) => argument.value_parser(parser()),
        Kind::Decimal => argument.value_parser(clap::value_parser!(f64)),
        Kind::List => several(argument),
        Kind::Choices(parser) => several(argument.value_parser(parser())),
        Kind::Text | Kind::Token | Kind::Switch => argument,
    }
}
