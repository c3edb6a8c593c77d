//! Maps in one order. The interpreter goes through a map as its hash table stands, which is otherwise in every process, so that the same
//! facts would give another value on another replica and after a restart (promise 5). What a macro runs over is put in order first.

use cel::{
    Env, ExecutionError,
    common::{
        ast::{CallExpr, EntryExpr, Expr, IdedExpr},
        types::{CelList, CelMap, DYN_TYPE},
        value::{CowVal, Val},
    },
};

/// No expression can name it.
const IN_ORDER: &str = "@in_order";

/// Puts what every macro runs over in order.
pub(super) fn put_in_order(node: &mut IdedExpr) {
    match &mut node.expr {
        Expr::Unspecified | Expr::Literal(_) | Expr::Ident(_) => {}
        Expr::Call(call) => call.target.iter_mut().map(AsMut::as_mut).chain(&mut call.args).for_each(put_in_order),
        Expr::Select(select) => put_in_order(&mut select.operand),
        Expr::List(list) => list.elements.iter_mut().for_each(put_in_order),
        Expr::Map(map) => map.entries.iter_mut().for_each(|entry| put_entry_in_order(&mut entry.expr)),
        Expr::Struct(message) => message.entries.iter_mut().for_each(|entry| put_entry_in_order(&mut entry.expr)),
        Expr::Comprehension(parts) => {
            [
                &mut parts.iter_range,
                &mut parts.accu_init,
                &mut parts.loop_cond,
                &mut parts.loop_step,
                &mut parts.result,
            ]
            .into_iter()
            .for_each(put_in_order);
            let range = std::mem::take(&mut parts.iter_range);
            let id = range.id;
            let call = CallExpr { func_name: IN_ORDER.into(), target: None, args: vec![range] };
            parts.iter_range = IdedExpr { id, expr: Expr::Call(call) };
        }
    }
}

fn put_entry_in_order(entry: &mut EntryExpr) {
    match entry {
        EntryExpr::StructField(field) => put_in_order(&mut field.value),
        EntryExpr::MapEntry(entry) => {
            put_in_order(&mut entry.key);
            put_in_order(&mut entry.value);
        }
    }
}

/// The keys of a map in their order, as a macro goes through a map by its keys; anything else as it is.
pub(super) fn add_in_order(env: &mut Env) -> Result<(), cel::DeclarationError> {
    env.add_overload(IN_ORDER, "@in_order(dyn)", vec![DYN_TYPE], in_order)
}

fn in_order<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let [range] = <[CowVal<'b, 'v>; 1]>::try_from(arguments)
        .map_err(|arguments| ExecutionError::invalid_argument_count(1, arguments.len()))?;
    let Some(map) = range.downcast_ref::<CelMap>() else { return Ok(range) };
    let mut keys: Vec<_> = map.inner().keys().collect();
    keys.sort_unstable();
    let keys: Vec<Box<dyn Val + 'v>> = keys.into_iter().map(|key| key.inner().clone_as_boxed()).collect();
    Ok(CowVal::owned(CelList::from(keys)))
}
