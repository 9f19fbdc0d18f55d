use percent_encoding::percent_decode_str;
use proptest::prelude::*;

use super::*;

fn resource(group: &str, version: &str, plural: &str, namespace: &str) -> Resource {
    Resource {
        group: group.into(),
        version: version.into(),
        resource: plural.into(),
        namespace: namespace.into(),
        whole: true,
    }
}

fn path_of(group: &str, version: &str, plural: &str, namespace: &str) -> String {
    let parsed = Collection::parse(&resource(group, version, plural, namespace));
    parsed.unwrap().path()
}

#[test]
fn paths_are_those_of_the_api_server() {
    assert_eq!(
        path_of("", "v1", "configmaps", "kube-system"),
        "/api/v1/namespaces/kube-system/configmaps"
    );
    assert_eq!(path_of("", "v1", "nodes", ""), "/api/v1/nodes");
    assert_eq!(
        path_of("apps", "v1", "deployments", "default"),
        "/apis/apps/v1/namespaces/default/deployments"
    );
    let group = "source.toolkit.fluxcd.io";
    assert_eq!(
        path_of(group, "v1beta2", "gitrepositories", ""),
        "/apis/source.toolkit.fluxcd.io/v1beta2/gitrepositories"
    );
}

#[test]
fn what_could_become_another_path_is_refused_with_the_reason() {
    let long = "a".repeat(64);
    for (part, hostile) in [
        (3, "kube-system/secrets?x="),
        (3, "kube-system/secrets#"),
        (3, ".."),
        (3, "kube-system%2Fsecrets"),
        (3, "Default"),
        (3, "-a"),
        (3, "a-"),
        (3, "a.b"),
        (3, "a\n"),
        (3, "kube\u{2d}system\u{0}"),
        (3, &long),
        (1, "v1?x=1"),
        (1, "v1/namespaces/kube-system"),
        (1, "1"),
        (1, "V1"),
        (1, ""),
        (0, "apps/v1"),
        (0, "a..b"),
        (0, ".apps"),
        (0, "apps?x"),
        (0, " "),
        (2, "pods/exec"),
        (2, "*"),
        (2, "secrets?watch=true"),
        (2, ""),
        (2, "configmaps,secrets"),
    ] {
        let mut parts = ["apps", "v1", "configmaps", "default"];
        parts[part] = hostile;
        let [group, version, plural, namespace] = parts;
        let refused = Collection::parse(&resource(group, version, plural, namespace));
        let error = refused.expect_err(hostile).to_string();
        assert!(error.contains(" is not valid: "), "{error}");
        assert!(!error.contains('\n') && error.len() < 300, "{error}");
    }
}

#[test]
fn dots_alone_do_not_stay_a_segment() {
    assert_eq!(path(&["a", "..", "."]), "/a/%2E%2E/%2E");
}

/// Texts near to names, and anything else.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[a-z0-9.-]{0,12}",
        1 => Just(String::new()),
        1 => "[a-zA-Z0-9./?#%&=;:@!$*+,\\\\ \"<>|~_-]{0,12}",
        1 => any::<String>(),
    ]
}

proptest! {
    #[test]
    fn every_accepted_key_is_exactly_its_own_segments(
        group in text(), version in text(), plural in text(), namespace in text(),
    ) {
        let asked = resource(&group, &version, &plural, &namespace);
        let Ok(collection) = Collection::parse(&asked) else {
            return Ok(());
        };
        let mut expected = match group.as_str() {
            "" => vec!["api", &version],
            _ => vec!["apis", &group, &version],
        };
        if !namespace.is_empty() {
            expected.extend(["namespaces", &namespace]);
        }
        expected.push(&plural);

        let uri: http::Uri = collection.path().parse().unwrap();
        let segments: Vec<_> = uri.path().split('/').skip(1).collect();
        prop_assert_eq!(segments, expected);
        prop_assert_eq!(uri.query(), None);
        // The right is asked for by the same words, and the agent reads them again as they are.
        prop_assert_eq!(collection.resource(true), asked);
        prop_assert_eq!(Collection::parse(&collection.resource(true)), Ok(collection));
    }

    #[test]
    fn any_segments_stay_what_they_are(segments in prop::collection::vec(any::<String>(), 1..6)) {
        let path = path(&segments);
        let uri: http::Uri = path.parse().unwrap();
        let read: Vec<_> = uri.path().split('/').skip(1)
            .map(|it| percent_decode_str(it).decode_utf8().unwrap().into_owned())
            .collect();
        prop_assert_eq!(read, segments);
        prop_assert_eq!(uri.query(), None);
    }
}
