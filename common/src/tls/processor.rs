//! The provider of the cryptography, if the processor has what it needs: without, it panics at its first use.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// The provider, or the features that are missing.
pub(super) fn provider() -> Result<Arc<CryptoProvider>, String> {
    match missing(&features()) {
        None => Ok(Arc::new(rustls_graviola::default_provider())),
        Some(missing) => Err(format!(
            "TLS needs a processor with {missing}: run on another machine, or let a proxy beside this process do TLS"
        )),
    }
}

fn missing(features: &[(&'static str, bool)]) -> Option<String> {
    let missing: Vec<_> = features.iter().filter(|(_, present)| !present).map(|(name, _)| *name).collect();
    (!missing.is_empty()).then(|| missing.join(", "))
}

/// What graviola requires, and whether it is there.
#[cfg(target_arch = "x86_64")]
fn features() -> [(&'static str, bool); 6] {
    use std::arch::is_x86_feature_detected as detected;
    [
        ("adx", detected!("adx")),
        ("aes", detected!("aes")),
        ("avx", detected!("avx")),
        ("avx2", detected!("avx2")),
        ("bmi1", detected!("bmi1")),
        ("pclmulqdq", detected!("pclmulqdq")),
    ]
}

/// What graviola requires, and whether it is there.
#[cfg(target_arch = "aarch64")]
fn features() -> [(&'static str, bool); 4] {
    use std::arch::is_aarch64_feature_detected as detected;
    [
        ("neon", detected!("neon")),
        ("aes", detected!("aes")),
        ("pmull", detected!("pmull")),
        ("sha2", detected!("sha2")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_feature_is_named() {
        assert_eq!(missing(&[("adx", true), ("aes", true)]), None);
        assert_eq!(missing(&[("adx", false), ("aes", true), ("avx2", false)]).as_deref(), Some("adx, avx2"));
    }

    #[test]
    fn the_features_are_those_that_the_provider_checks() {
        assert_eq!(missing(&features()).is_none(), graviola::util::is_cpu_supported());
    }
}
