//! The currencies of ISO 4217 that people pay with. Never its funds, metals and codes for testing:
//! these are not used for payments, and most have no smallest unit.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Codes by the number of minor digits of an amount. Codes are added and never removed: an event
/// from a time when the currency was in use must be readable in a replay. As of January 2026, with
/// the currencies that were withdrawn since January 2025 (ANG, BGN).
const CODES: [(u8, &str); 3] = [
    (
        2,
        "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BTN BWP BYN \
         BZD CAD CDF CHF CNY COP CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS \
         GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR \
         LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD \
         PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN \
         SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VED VES WST XCD XCG YER ZAR \
         ZMW ZWG",
    ),
    (
        0,
        "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF",
    ),
    (3, "BHD IQD JOD KWD LYD OMR TND"),
];

/// A currency, by its ISO 4217 code in capital letters: `"EUR"` in JSON. Any other text is refused
/// when it is parsed or read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Currency {
    code: &'static str,
    exponent: u8,
}

/// A text is not the code of a currency.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a currency: use an ISO 4217 code such as \"EUR\"")]
pub struct CurrencyError(String);

impl Currency {
    /// The code, three capital letters.
    #[must_use]
    pub const fn code(self) -> &'static str {
        self.code
    }

    /// The number of decimal digits of the smallest unit: 2 for EUR, 0 for JPY, 3 for KWD.
    #[must_use]
    pub const fn exponent(self) -> u8 {
        self.exponent
    }
}

impl FromStr for Currency {
    type Err = CurrencyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        CODES
            .into_iter()
            .flat_map(|(exponent, codes)| codes.split(' ').map(move |code| (exponent, code)))
            .find(|(_, code)| *code == text)
            .map(|(exponent, code)| Self { code, exponent })
            .ok_or_else(|| CurrencyError(text.chars().take(16).collect()))
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code)
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Currency({})", self.code)
    }
}

impl Serialize for Currency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code)
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

impl JsonSchema for Currency {
    fn schema_name() -> Cow<'static, str> {
        "Currency".into()
    }

    // The pattern and not the list, which grows without a new version of the event.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A currency, by its ISO 4217 code.",
            "type": "string",
            "pattern": "^[A-Z]{3}$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_knows_its_smallest_unit() {
        for (code, exponent) in [("EUR", 2), ("JPY", 0), ("KWD", 3), ("ZWG", 2)] {
            let currency: Currency = code.parse().unwrap();
            assert_eq!((currency.code(), currency.exponent()), (code, exponent));
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "", " ", "eur", "EURO", "EU", "EUR ", "EUR USD", "XXX", "XAU", "QQQ",
        ] {
            let refused = text.parse::<Currency>();
            assert_eq!(refused, Err(CurrencyError(text.to_owned())));
            assert!(serde_json::from_value::<Currency>(text.into()).is_err());
        }
    }

    #[test]
    fn every_code_is_three_capitals_and_occurs_once() {
        let mut codes: Vec<&str> = CODES.iter().flat_map(|(_, c)| c.split(' ')).collect();
        let is_code = |code: &str| code.len() == 3 && code.bytes().all(|b| b.is_ascii_uppercase());
        assert!(codes.iter().all(|code| is_code(code)));
        let count = codes.len();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), count);
    }
}
