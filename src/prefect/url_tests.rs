//! Addresses, by table.

use super::{ApiUrl, UrlError};

const A: &str = "0b1c2d3e-1111-2222-3333-444455556666";
const W: &str = "9f8e7d6c-aaaa-bbbb-cccc-ddddeeeeffff";

fn base(text: &str) -> Result<String, UrlError> {
    ApiUrl::parse(text, None, None).map(|url| url.to_string())
}

#[test]
fn a_self_hosted_address_ends_in_api_however_it_was_written() {
    for (text, expected) in [
        ("http://prefect:4200/api", "http://prefect:4200/api"),
        ("http://prefect:4200/api/", "http://prefect:4200/api"),
        ("http://prefect:4200/api///", "http://prefect:4200/api"),
        ("http://prefect:4200", "http://prefect:4200/api"),
        ("http://prefect:4200/", "http://prefect:4200/api"),
        ("  http://Prefect.Example/api\n", "http://prefect.example/api"),
        ("http://prefect:80/api", "http://prefect/api"),
        ("http://h:4200/dashboard", "http://h:4200/api"),
        ("http://h:4200/runs?state=failed#x", "http://h:4200/api"),
        ("http://h:4200/flow-runs/flow-run/1-2", "http://h:4200/api"),
        ("http://h:4200/flows/flow/1", "http://h:4200/api"),
        ("http://h:4200/deployments", "http://h:4200/api"),
        ("http://h:4200/work-pools/work-pool/p", "http://h:4200/api"),
        ("http://h:4200/blocks/block/1/edit", "http://h:4200/api"),
        ("http://h:4200/variables", "http://h:4200/api"),
        ("http://h:4200/automations", "http://h:4200/api"),
        ("http://h:4200/events", "http://h:4200/api"),
        ("http://h:4200/concurrency-limits", "http://h:4200/api"),
        ("http://h:4200/settings", "http://h:4200/api"),
        ("http://h:4200/v2", "http://h:4200/api"),
        ("http://h:4200/v2/dashboard", "http://h:4200/api"),
        ("http://h:4200/api/health", "http://h:4200/api"),
        ("https://corp/prefect", "https://corp/prefect/api"),
        ("https://corp/prefect/api", "https://corp/prefect/api"),
        ("https://corp/prefect/dashboard", "https://corp/prefect/api"),
        ("https://corp/a/b/v2/runs/", "https://corp/a/b/api"),
        ("https://corp/v2/prefect", "https://corp/v2/prefect/api"),
        ("https://corp/flows/api", "https://corp/flows/api"),
        ("https://corp/account/x", "https://corp/account/x/api"),
        ("https://corp/api/prefect", "https://corp/api/prefect/api"),
        ("http://[::1]:4200/api", "http://[::1]:4200/api"),
        ("http://h/api?key=x#frag", "http://h/api"),
    ] {
        assert_eq!(base(text).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn a_cloud_address_is_found_in_the_browsers() {
    let expected = format!("https://api.prefect.cloud/api/accounts/{A}/workspaces/{W}");
    for text in [
        format!("https://api.prefect.cloud/api/accounts/{A}/workspaces/{W}"),
        format!("https://api.prefect.cloud/api/accounts/{A}/workspaces/{W}/"),
        format!("https://api.prefect.cloud/accounts/{A}/workspaces/{W}"),
        format!("https://app.prefect.cloud/account/{A}/workspace/{W}/dashboard?x=1#y"),
        format!("https://app.prefect.cloud/account/{A}/workspace/{W}"),
        format!("http://App.Prefect.Cloud/account/{A}/workspace/{W}/blocks"),
    ] {
        let url = ApiUrl::parse(&text, None, None).unwrap();
        assert_eq!(url.as_str(), expected, "{text}");
        assert!(url.is_cloud());
        assert_eq!(url.host_and_port(), "api.prefect.cloud");
        assert_eq!(ApiUrl::parse(&text, Some(A), Some(W)), Ok(url));
    }
    for text in [
        "https://api.prefect.cloud/api",
        "https://api.prefect.cloud",
        "https://app.prefect.cloud/auth/login",
        &format!("https://app.prefect.cloud/account/{A}/settings"),
    ] {
        assert_eq!(base(text), Err(UrlError::CloudNeedsWorkspace), "{text}");
        let url = ApiUrl::parse(text, Some(A), Some(W)).unwrap();
        assert_eq!(url.as_str(), expected, "{text}");
    }
}

#[test]
fn ids_are_joined_to_a_self_hosted_address_too() {
    let url = ApiUrl::parse("https://corp/prefect", Some(A), Some(W)).unwrap();
    assert_eq!(url.as_str(), format!("https://corp/prefect/api/accounts/{A}/workspaces/{W}"));
    assert!(!url.is_cloud());
    let again = ApiUrl::parse(url.as_str(), None, None);
    assert_eq!(again, Ok(url));
}

#[test]
fn a_normalised_address_stays_as_it_is() {
    for text in ["http://prefect:4200", "https://corp/a/b/", "http://127.0.0.1/runs"] {
        let once = base(text).unwrap();
        assert_eq!(base(&once), Ok(once.clone()));
    }
}

#[test]
fn mistakes_are_told_apart() {
    for (text, expected) in [
        ("", UrlError::Empty),
        (" \n", UrlError::Empty),
        ("prefect", UrlError::NotHttp),
        ("prefect:4200/api", UrlError::NotHttp),
        ("ftp://prefect/api", UrlError::NotHttp),
        ("http://", UrlError::Unparsable),
        ("http://h:99999/api", UrlError::Unparsable),
        ("http://admin:s3cr3t@h/api", UrlError::HasCredentials),
        ("http://token@h/api", UrlError::HasCredentials),
    ] {
        assert_eq!(base(text), Err(expected), "{text}");
    }
    let cloud = "https://api.prefect.cloud/api";
    let parse = |account, workspace| ApiUrl::parse(cloud, account, workspace).unwrap_err();
    assert_eq!(parse(Some(A), None), UrlError::OnlyOneId);
    assert_eq!(parse(Some(A), Some(" ")), UrlError::OnlyOneId);
    assert_eq!(parse(Some(""), Some("")), UrlError::CloudNeedsWorkspace);
    assert_eq!(parse(Some("../x"), Some(W)), UrlError::BadId);
    let full = format!("{cloud}/accounts/{A}/workspaces/{W}");
    let other = ApiUrl::parse(&full, Some(A), Some("other"));
    assert_eq!(other, Err(UrlError::ConflictingIds));
    let odd = format!("{cloud}/accounts/{A}/workspaces/%2e%2fx");
    assert_eq!(base(&odd), Err(UrlError::BadId));
}

#[test]
fn hosts_that_only_look_like_cloud_are_not() {
    for text in ["https://notprefect.cloud/api", "https://prefect.cloud.evil/api"] {
        assert!(!ApiUrl::parse(text, None, None).unwrap().is_cloud(), "{text}");
    }
}

#[test]
fn a_name_stays_one_segment_of_an_endpoint() {
    let url = ApiUrl::parse("http://h", None, None).unwrap();
    assert_eq!(
        url.endpoint(&["variables", "name", "a/b?c#d e%"]).as_str(),
        "http://h/api/variables/name/a%2Fb%3Fc%23d%20e%25"
    );
}
