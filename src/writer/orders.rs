//! Orders as clients send them: a body becomes a [`NewOrder`], a query a [`Page`].

use std::ops::RangeInclusive;

use serde::Serialize;
use serde_json::value::RawValue;

use super::fields::{self, Object, Problem, Problems};
use super::number::Number;

/// Length of names and numbers, in characters: what the columns take.
pub(super) const NAME: RangeInclusive<usize> = 1..=255;

/// Most items of an order.
const ITEMS_MAX: usize = 1000;

/// Most pieces of an item.
const QUANTITY_MAX: u32 = 1_000_000;

/// A price has fewer digits than this before its point, plus one.
const PRICE_WHOLE_DIGITS: i64 = 12;

/// Digits that a price given as text may have behind its point.
const PRICE_TEXT_FRACTION_DIGITS: usize = 20;

/// The currency of orders that name none.
const CURRENCY: &str = "USD";

/// An order that keeps every rule, as the texts that are stored.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NewOrder {
    pub(super) customer_id: String,
    pub(super) order_number: String,
    pub(super) currency: String,
    /// JSON, prices as numbers with the digits that were sent.
    pub(super) items: String,
    /// JSON.
    pub(super) shipping_address: String,
    /// JSON.
    pub(super) billing_address: String,
}

#[derive(Serialize)]
struct Item {
    product_id: String,
    product_name: String,
    quantity: u32,
    unit_price: Box<RawValue>,
}

#[derive(Serialize, Default)]
struct Address {
    street: String,
    number: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    complement: Option<String>,
    city: String,
    state: String,
    zip_code: String,
    country: String,
}

/// Reads the body of a new order.
///
/// # Errors
/// Everything that is wrong with it.
pub(super) fn read(body: &RawValue) -> Result<NewOrder, Vec<Problem>> {
    let mut problems = Problems::default();
    let Some(mut order) = Object::read(body, "", &mut problems) else { return Err(problems.into_list()) };
    let customer_id = order.text("customer_id", &NAME, &mut problems);
    let order_number = order.text("order_number", &NAME, &mut problems);
    let currency = currency(&mut order, &mut problems);
    let items = items(&mut order, &mut problems);
    let shipping_address = address(&mut order, "shipping_address", &mut problems);
    let billing_address = address(&mut order, "billing_address", &mut problems);
    order.finish(&mut problems);
    problems.or(NewOrder {
        customer_id,
        order_number,
        currency,
        items: json(&items),
        shipping_address: json(&shipping_address),
        billing_address: json(&billing_address),
    })
}

/// Texts and numbers always have a JSON form.
fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn currency(order: &mut Object<'_>, problems: &mut Problems) -> String {
    let Some(raw) = order.optional("currency") else { return CURRENCY.to_owned() };
    let is_code = |text: &String| text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase());
    fields::text(raw, &(3..=3)).ok().filter(is_code).unwrap_or_else(|| {
        problems.note(order.path("currency"), "must be three capital letters, like EUR");
        String::new()
    })
}

fn items(order: &mut Object<'_>, problems: &mut Problems) -> Vec<Item> {
    let Some(raw) = order.required("items", problems) else { return Vec::new() };
    let elements = fields::elements(raw).filter(|elements| (1..=ITEMS_MAX).contains(&elements.len()));
    let Some(elements) = elements else {
        problems.note(order.path("items"), format!("must be an array of 1 to {ITEMS_MAX} items"));
        return Vec::new();
    };
    let read = |(index, raw)| item(raw, &format!("items[{index}]"), problems);
    elements.into_iter().enumerate().filter_map(read).collect()
}

fn item(raw: &RawValue, path: &str, problems: &mut Problems) -> Option<Item> {
    let mut item = Object::read(raw, path, problems)?;
    let product_id = item.text("product_id", &NAME, problems);
    let product_name = item.text("product_name", &NAME, problems);
    let quantity = item.required("quantity", problems).and_then(|raw| {
        let whole = Number::parse(raw.get()).and_then(|number| number.to_whole());
        let quantity = whole.filter(|quantity| (1..=QUANTITY_MAX).contains(quantity));
        if quantity.is_none() {
            problems.note(item.path("quantity"), format!("must be a whole number from 1 to {QUANTITY_MAX}"));
        }
        quantity
    });
    let unit_price = item.required("unit_price", problems).and_then(|raw| {
        let price = price(raw);
        if price.is_none() {
            problems.note(
                item.path("unit_price"),
                "must be a number from 0 to below 1000000000000, or such a number as text: \"10.50\"",
            );
        }
        price
    });
    item.finish(problems);
    Some(Item { product_id, product_name, quantity: quantity?, unit_price: unit_price? })
}

/// A price as the JSON number that is stored: the digits that were sent.
fn price(raw: &RawValue) -> Option<Box<RawValue>> {
    let fits = |text: &str| {
        Number::parse(text).is_some_and(|number| number.is_amount_below_power_of_ten(PRICE_WHOLE_DIGITS))
    };
    let quoted: Option<String> = serde_json::from_str(raw.get()).ok();
    let digits = match quoted {
        // In a text there is no sign and no exponent: people write it by hand.
        Some(text) => {
            let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
            let fraction = text.split_once('.').map_or(0, |(_, fraction)| fraction.len());
            (plain && fraction <= PRICE_TEXT_FRACTION_DIGITS).then_some(text)?
        }
        None => raw.get().to_owned(),
    };
    fits(&digits).then(|| RawValue::from_string(digits).ok())?
}

fn address(order: &mut Object<'_>, name: &str, problems: &mut Problems) -> Address {
    let path = order.path(name);
    let Some(raw) = order.required(name, problems) else { return Address::default() };
    let Some(mut address) = Object::read(raw, &path, problems) else { return Address::default() };
    let street = address.text("street", &NAME, problems);
    let number = address.text("number", &NAME, problems);
    let complement = address.optional("complement").and_then(|raw| {
        fields::text(raw, &(0..=*NAME.end()))
            .map_err(|message| problems.note(address.path("complement"), message))
            .ok()
    });
    let city = address.text("city", &NAME, problems);
    let state = address.text("state", &NAME, problems);
    let zip_code = address.text("zip_code", &NAME, problems);
    let country = address.text("country", &NAME, problems);
    address.finish(problems);
    Address { street, number, complement, city, state, zip_code, country }
}

/// A part of the list of orders.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) limit: i64,
    pub(super) offset: i64,
}

/// Orders of a page unless the client says otherwise, and at most.
const LIMIT: i64 = 10;
const LIMIT_MAX: i64 = 100;

/// Reads the query of a list; parameters that are not ours are left alone, as HTTP has it.
///
/// # Errors
/// Everything that is wrong with it.
pub(super) fn page(query: &str) -> Result<Page, Vec<Problem>> {
    let mut problems = Problems::default();
    let mut number = |name: &str, default: i64, least: i64| {
        let mut given = query.split('&').filter_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name).then_some(value)
        });
        let Some(text) = given.next() else { return default };
        if given.next().is_some() {
            problems.note(name, "is given more than once");
            return default;
        }
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // Digits that do not fit are more than anybody has.
        let number = is_number.then(|| text.parse().unwrap_or(i64::MAX)).filter(|number| *number >= least);
        number.unwrap_or_else(|| {
            problems.note(name, format!("must be a whole number, {least} or more"));
            default
        })
    };
    let limit = number("limit", LIMIT, 1).min(LIMIT_MAX);
    let offset = number("offset", 0, 0);
    problems.or(Page { limit, offset })
}

#[cfg(test)]
mod tests;
