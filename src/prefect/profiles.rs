//! The connection outside a cluster, found where Prefect's own clients look.

use std::io::ErrorKind as IoErrorKind;
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use thiserror::Error;
use toml_edit::{Document, TableLike};
use zeroize::Zeroizing;

use super::config_toml::Position;

const API_URL: &str = "PREFECT_API_URL";
const API_KEY: &str = "PREFECT_API_KEY";
const AUTH_STRING: &str = "PREFECT_API_AUTH_STRING";

/// What was found. `Debug` shows no credential.
#[derive(Debug)]
pub struct Discovered {
    /// The address as written; see [`ApiUrl::parse`](super::ApiUrl::parse).
    pub url: Option<String>,
    /// The API key, for Prefect Cloud.
    pub api_key: Option<SecretString>,
    /// The auth string, for a self-hosted server.
    pub auth_string: Option<SecretString>,
    /// Where the address comes from, or else where it was looked for: `environment`, or
    /// `profile "x" of ~/.prefect/profiles.toml`.
    pub source: String,
    /// Prefect 1's `config.toml`: the one that the environment names, whether it exists or not, or
    /// the one in `~/.prefect`, if it exists.
    pub config_toml: Option<PathBuf>,
}

/// Why the connection could not be looked up. Shows no value of a profile.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DiscoverError {
    /// The file of profiles exists but can't be read.
    #[error("cannot read {file}: {reason}; check its permissions")]
    Unreadable {
        /// The file, with `~` for the home directory.
        file: String,
        /// What the system said.
        reason: IoErrorKind,
    },
    /// The file of profiles is not TOML.
    #[error("{file} is not TOML: line {line}, column {column}: {message}")]
    Syntax {
        /// The file, with `~` for the home directory.
        file: String,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What the parser found wrong or expected. One of its fixed texts.
        message: String,
    },
    /// The active profile does not exist.
    #[error(
        "{file} has no profile {profile:?}; see `prefect profile ls`, \
         or set PREFECT_PROFILE to one that exists"
    )]
    NoSuchProfile {
        /// Name of the profile.
        profile: String,
        /// The file, with `~` for the home directory.
        file: String,
    },
    /// A setting, or `active`, is not a string.
    #[error("{file}: {key} must be a string")]
    NotAString {
        /// Name of the setting.
        key: String,
        /// The file, with `~` for the home directory.
        file: String,
    },
}

/// The settings of one profile that matter here.
#[derive(Default)]
struct Profile {
    url: Option<String>,
    api_key: Option<SecretString>,
    auth_string: Option<SecretString>,
}

/// Looks for the connection as Prefect's client does: each of `PREFECT_API_URL`,
/// `PREFECT_API_KEY` and `PREFECT_API_AUTH_STRING` from the environment `env`, else from the
/// active profile. That is `PREFECT_PROFILE`, else what the file of profiles calls `active`; the
/// file is `PREFECT_PROFILES_PATH`, `$PREFECT_HOME/profiles.toml` or, below `home`,
/// `.prefect/profiles.toml`. An empty variable counts as unset. Project files (`.env`,
/// `prefect.toml`, `pyproject.toml`) are not read.
///
/// # Errors
/// [`DiscoverError`]: the file of profiles can't be used. That it does not exist is none.
pub fn discover(env: &dyn Fn(&str) -> Option<String>, home: Option<&Path>) -> Result<Discovered, DiscoverError> {
    let variable = |name: &str| env(name).filter(|value| !value.is_empty());
    let path = |name: &str| variable(name).map(|value| expand_home(&value, home));

    let profiles_path = path("PREFECT_PROFILES_PATH")
        .or_else(|| path("PREFECT_HOME").map(|dir| dir.join("profiles.toml")))
        .or_else(|| home.map(|home| home.join(".prefect/profiles.toml")));
    let (profile, profile_source) = match profiles_path {
        Some(file) => read_profile(&file, variable("PREFECT_PROFILE"), home)?,
        None => (Profile::default(), None),
    };

    let env_url = variable(API_URL);
    let source = match profile_source {
        Some(source) if env_url.is_none() => source,
        _ => "environment".to_owned(),
    };
    let config_toml = path("PREFECT__USER_CONFIG_PATH")
        .or_else(|| home.map(|home| home.join(".prefect/config.toml")).filter(|file| file.is_file()));
    Ok(Discovered {
        url: env_url.or(profile.url),
        api_key: variable(API_KEY).map(SecretString::from).or(profile.api_key),
        auth_string: variable(AUTH_STRING).map(SecretString::from).or(profile.auth_string),
        source,
        config_toml,
    })
}

/// The active profile and what to call it, if there is one.
fn read_profile(
    path: &Path,
    wanted: Option<String>,
    home: Option<&Path>,
) -> Result<(Profile, Option<String>), DiscoverError> {
    let file = shorten_home(path, home);
    let text = match std::fs::read_to_string(path) {
        Ok(text) => Zeroizing::new(text),
        Err(error) if error.kind() == IoErrorKind::NotFound => Zeroizing::default(),
        Err(error) => {
            return Err(DiscoverError::Unreadable { file, reason: error.kind() });
        }
    };
    let document = Document::parse(text.as_str()).map_err(|error| {
        let position = Position::of(&text, &error);
        DiscoverError::Syntax {
            file: file.clone(),
            line: position.line,
            column: position.column,
            message: error.message().to_owned(),
        }
    })?;
    let active = string_in(document.as_table(), "active", &file)?;
    let Some(name) = wanted.or(active) else {
        return Ok((Profile::default(), None));
    };
    let table = document
        .get("profiles")
        .and_then(|profiles| profiles.get(name.as_str()))
        .and_then(|profile| profile.as_table_like());
    let profile = match table {
        Some(table) => Profile {
            url: string_in(table, API_URL, &file)?,
            api_key: string_in(table, API_KEY, &file)?.map(SecretString::from),
            auth_string: string_in(table, AUTH_STRING, &file)?.map(SecretString::from),
        },
        None => {
            built_in(&name).ok_or_else(|| DiscoverError::NoSuchProfile { profile: name.clone(), file: file.clone() })?
        }
    };
    Ok((profile, Some(format!("profile {name:?} of {file}"))))
}

/// The profiles that Prefect 3 has before anyone writes one.
fn built_in(name: &str) -> Option<Profile> {
    match name {
        "local" => Some(Profile { url: Some("http://127.0.0.1:4200/api".to_owned()), ..Profile::default() }),
        "ephemeral" | "test" | "cloud" => Some(Profile::default()),
        _ => None,
    }
}

fn string_in(table: &dyn TableLike, key: &str, file: &str) -> Result<Option<String>, DiscoverError> {
    match table.get(key) {
        None => Ok(None),
        Some(item) => match item.as_str() {
            Some(text) => Ok(Some(text.to_owned()).filter(|text| !text.is_empty())),
            None => Err(DiscoverError::NotAString { key: key.to_owned(), file: file.to_owned() }),
        },
    }
}

fn expand_home(text: &str, home: Option<&Path>) -> PathBuf {
    match (text.strip_prefix('~'), home) {
        (Some(""), Some(home)) => home.to_owned(),
        (Some(rest), Some(home)) if rest.starts_with('/') => home.join(&rest[1..]),
        _ => PathBuf::from(text),
    }
}

fn shorten_home(path: &Path, home: Option<&Path>) -> String {
    match home.and_then(|home| path.strip_prefix(home).ok()) {
        Some(rest) => format!("~/{}", rest.display()),
        None => path.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;
    use std::fs;

    const PROFILES: &str = r#"
active = "prod"
[profiles.prod]
PREFECT_API_URL = "https://prod/api"
PREFECT_API_KEY = "pnu_prod"
[profiles.dev]
PREFECT_API_URL = "http://dev/api"
PREFECT_API_AUTH_STRING = "admin:dev"
[profiles.bad]
PREFECT_API_URL = 7
"#;

    fn look(home: &Path, vars: &[(&str, &str)]) -> Result<Discovered, DiscoverError> {
        let env = |name: &str| {
            let found = vars.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        discover(&env, Some(home))
    }

    fn home_with(profiles: &str) -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join(".prefect")).unwrap();
        fs::write(home.path().join(".prefect/profiles.toml"), profiles).unwrap();
        home
    }

    fn text(secret: &Option<SecretString>) -> Option<&str> {
        secret.as_ref().map(|secret| secret.expose_secret())
    }

    #[test]
    fn the_active_profile_is_used_where_the_environment_is_silent() {
        let home = home_with(PROFILES);
        let found = look(home.path(), &[]).unwrap();
        assert_eq!(found.url.as_deref(), Some("https://prod/api"));
        assert_eq!(text(&found.api_key), Some("pnu_prod"));
        assert_eq!(text(&found.auth_string), None);
        assert_eq!(found.source, r#"profile "prod" of ~/.prefect/profiles.toml"#);
        assert_eq!(found.config_toml, None);
        assert!(!format!("{found:?}").contains("pnu_prod"));

        let found = look(home.path(), &[("PREFECT_PROFILE", "dev")]).unwrap();
        assert_eq!(found.url.as_deref(), Some("http://dev/api"));
        assert_eq!(text(&found.auth_string), Some("admin:dev"));
    }

    #[test]
    fn each_variable_wins_over_the_profile() {
        let home = home_with(PROFILES);
        let found = look(home.path(), &[(API_URL, "http://env/api"), (API_KEY, "")]).unwrap();
        assert_eq!(found.url.as_deref(), Some("http://env/api"));
        assert_eq!(text(&found.api_key), Some("pnu_prod"));
        assert_eq!(found.source, "environment");
        let found = look(home.path(), &[(API_KEY, "k"), (AUTH_STRING, "a:b")]).unwrap();
        assert_eq!(text(&found.api_key), Some("k"));
        assert_eq!(text(&found.auth_string), Some("a:b"));
        assert_eq!(found.url.as_deref(), Some("https://prod/api"));
    }

    #[test]
    fn the_file_of_profiles_may_be_elsewhere() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("p");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("profiles.toml"), PROFILES).unwrap();
        for vars in [
            ("PREFECT_HOME", "~/p"),
            ("PREFECT_PROFILES_PATH", "~/p/profiles.toml"),
            ("PREFECT_HOME", dir.to_str().unwrap()),
        ] {
            let found = look(home.path(), &[vars]).unwrap();
            assert_eq!(found.source, r#"profile "prod" of ~/p/profiles.toml"#);
        }
    }

    #[test]
    fn nothing_at_all_is_no_error() {
        let home = tempfile::tempdir().unwrap();
        let found = look(home.path(), &[]).unwrap();
        assert_eq!((found.url, found.source.as_str()), (None, "environment"));
        let found = discover(&|_| None, None).unwrap();
        assert!(found.url.is_none() && found.config_toml.is_none());
    }

    #[test]
    fn the_built_in_profiles_need_no_file() {
        let home = tempfile::tempdir().unwrap();
        let found = look(home.path(), &[("PREFECT_PROFILE", "local")]).unwrap();
        assert_eq!(found.url.as_deref(), Some("http://127.0.0.1:4200/api"));
        let found = look(home.path(), &[("PREFECT_PROFILE", "ephemeral")]).unwrap();
        assert_eq!(found.url, None);
    }

    #[test]
    fn a_config_toml_is_found_where_prefect_1_keeps_it() {
        let home = home_with("");
        let file = home.path().join(".prefect/config.toml");
        assert_eq!(look(home.path(), &[]).unwrap().config_toml, None);
        fs::write(&file, "").unwrap();
        assert_eq!(look(home.path(), &[]).unwrap().config_toml, Some(file));
        let named = ("PREFECT__USER_CONFIG_PATH", "/mounted/config.toml");
        let found = look(home.path(), &[named]).unwrap();
        assert_eq!(found.config_toml, Some(PathBuf::from("/mounted/config.toml")));
    }

    #[test]
    fn mistakes_are_told_without_values() {
        let file = || "~/.prefect/profiles.toml".to_owned();
        let home = home_with(PROFILES);
        let error = |profile| look(home.path(), &[("PREFECT_PROFILE", profile)]).unwrap_err();
        assert_eq!(error("nope"), DiscoverError::NoSuchProfile { profile: "nope".to_owned(), file: file() });
        assert_eq!(error("bad"), DiscoverError::NotAString { key: API_URL.to_owned(), file: file() });
        let home = home_with("active = 'x'\n[profiles.x]\nPREFECT_API_KEY = canary\n");
        let error = look(home.path(), &[]).unwrap_err();
        assert!(matches!(&error, DiscoverError::Syntax { line: 3, column: 19, .. }), "{error}");
        assert!(!format!("{error} {error:?}").contains("canary"));
    }
}
