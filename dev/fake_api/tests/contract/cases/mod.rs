//! The cases. Every public function in the rooms is one.

mod apply;
mod create;
mod delete;
mod list;
mod patch;
mod read;
mod update;
mod watch;

use std::collections::BTreeSet;

use futures::future::BoxFuture;

use crate::place::Place;

pub struct Case {
    pub name: &'static str,
    pub run: for<'a, 'b> fn(&'a mut Place<'b>) -> BoxFuture<'a, ()>,
}

/// The rooms with their cases, in the order in which they are run.
macro_rules! cases {
    ($($room:ident: $($case:ident,)+;)+) => {
        pub fn all() -> Vec<Case> {
            vec![$($({
                fn run<'a>(at: &'a mut Place<'_>) -> BoxFuture<'a, ()> {
                    Box::pin($room::$case(at))
                }
                Case { name: concat!(stringify!($room), "::", stringify!($case)), run }
            },)+)+]
        }

        /// What is written as a case.
        pub fn written() -> BTreeSet<String> {
            let rooms = [$((stringify!($room), include_str!(concat!(stringify!($room), ".rs")))),+];
            let names = rooms.iter().flat_map(|(room, text)| {
                let lines = text.lines().filter_map(|line| line.strip_prefix("pub async fn ")?.split_once('('));
                lines.map(move |(name, _)| format!("{room}::{name}"))
            });
            names.collect()
        }
    };
}

cases! {
    create:
        a_new_object_has_what_the_server_gives_it,
        a_name_that_is_taken_is_refused,
        a_name_that_can_be_none_is_refused,
        an_object_without_a_name_is_refused,
        an_object_of_another_namespace_is_refused,
        an_object_of_another_kind_is_refused,
        a_body_that_is_no_object_is_refused,
        a_body_in_a_format_that_is_unknown_is_refused,
        what_the_server_alone_writes_is_not_taken_from_a_client,
        a_new_object_has_no_version_yet,
        the_status_of_a_new_object_is_dropped,
        labels_and_annotations_that_can_be_none_are_refused,
        nothing_is_created_in_a_namespace_that_is_missing,
        nothing_is_created_in_a_namespace_that_ends,
        metadata_that_says_nothing_is_dropped,;
    read:
        what_is_not_there_is_not_found,
        a_path_at_which_nothing_is_served_has_no_status,
        a_resource_that_a_group_has_not_is_not_found,
        a_method_that_a_path_has_not_is_refused,
        a_subresource_that_a_kind_has_not_is_not_found,
        the_scope_of_a_kind_is_part_of_its_paths,;
    list:
        a_list_is_in_order_and_says_its_kind,
        a_label_selector_selects,
        a_field_selector_selects_by_name,
        a_selector_that_cannot_be_read_is_refused,
        a_list_comes_in_pages,
        a_list_in_pages_is_of_one_version,
        a_selection_comes_in_pages,
        the_last_page_may_be_full,
        a_continuation_that_can_be_none_is_refused,
        a_list_of_version_zero_is_given_whole,
        a_list_may_ask_for_no_older_version,
        a_version_that_is_none_is_refused,;
    update:
        a_replacement_of_an_old_version_is_a_conflict,
        a_replacement_without_a_version,
        a_version_of_a_replacement_that_is_no_number,
        a_replacement_of_another_uid_is_a_conflict,
        a_replacement_of_another_name_is_refused,
        a_replacement_that_changes_nothing_keeps_the_version,
        a_replacement_drops_what_it_does_not_say,
        times_and_generations_are_the_servers,
        a_deletion_cannot_be_written,
        the_generation_of_a_custom_object_moves_with_its_content,
        the_generation_of_a_deployment_moves_with_its_annotations_too,
        the_generation_of_other_workloads_moves_with_their_spec_only,
        some_kinds_have_no_generation,
        a_status_is_not_written_with_the_object,
        nothing_but_the_status_is_written_as_a_status,
        a_status_of_an_old_version_is_a_conflict,
        a_status_that_changes_nothing_keeps_the_version,;
    patch:
        a_json_patch_applies_whole_or_not_at_all,
        a_failed_test_is_refused_without_causes,
        a_json_patch_of_a_path_that_is_absent_is_refused_without_causes,
        a_member_that_is_absent_counts_as_null,
        an_annotation_needs_its_map,
        a_json_patch_that_is_none_is_refused,
        a_patch_cannot_make_another_object_of_it,
        a_patch_cannot_make_what_is_no_object,
        a_json_patch_that_changes_nothing_keeps_the_version,
        a_merge_patch_adds_and_takes_out,
        a_merge_patch_of_an_old_version_is_a_conflict,
        a_merge_patch_that_is_none_is_refused,
        a_patch_in_a_format_that_is_unknown_is_refused,
        a_patch_of_a_status_changes_nothing_else,
        only_an_apply_can_be_forced,;
    apply:
        an_apply_creates_what_is_missing_and_updates_what_is_there,
        an_apply_says_who_it_is_and_of_which_kind,
        an_apply_of_what_another_has_said_is_a_conflict_unless_it_is_forced,
        an_apply_takes_back_what_it_says_no_more,
        an_apply_that_says_the_same_keeps_the_version,
        an_apply_of_a_status_merges_its_conditions,
        an_apply_of_a_status_needs_its_object,
        an_apply_of_an_old_version_or_another_uid_is_a_conflict,
        an_apply_drops_what_it_cannot_say,;
    delete:
        a_deletion_says_what_is_gone,
        a_finalizer_holds_an_object_until_it_is_taken_out,
        a_finalizer_is_taken_out_by_a_patch_too,
        an_object_that_is_being_deleted_can_be_written_and_not_created,
        an_object_that_is_being_deleted_gets_no_new_finalizers,
        a_precondition_that_does_not_hold_is_a_conflict,
        a_deletion_in_the_foreground_is_a_finalizer,
        options_that_cannot_be_read_are_refused,;
    watch:
        a_watch_tells_what_happens_after_its_version,
        a_watch_without_a_version_begins_with_what_is_there,
        a_watch_goes_on_where_another_ended,
        a_label_selector_makes_changes_come_and_go,
        a_field_selector_tells_of_one_name,
        what_changes_nothing_is_not_told,
        a_status_is_told_like_any_change,
        an_object_that_was_held_goes_as_it_was_last_stored,
        a_watch_of_all_namespaces_tells_of_all,
        a_watch_tells_of_its_own_namespace_only,
        a_watch_ends_in_its_time_and_tells_before_how_far_it_has_come,
        a_watch_of_a_version_that_is_none_is_refused,
        a_watch_of_a_version_that_has_expired_says_so,
        a_list_cannot_go_on_from_a_version_that_has_expired,;
}
