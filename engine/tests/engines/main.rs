//! One table of scenarios for every engine that works here: the contract of an engine and its
//! handler, seen from a plain socket.
//!
//! An engine that the kernel refuses is skipped with a line on standard error.
#![allow(
    clippy::redundant_closure_for_method_calls,
    reason = "the lint's method path is not general over the lifetime of an output or a worker"
)]

mod bytes;
mod congestion;
mod connect;
mod contract;
mod descriptors;
mod ends;
mod limits;
mod scarcity;
mod spread;
mod stage;
mod timing;
mod tls;

/// Declares a module of tests for each engine, every one running all scenarios.
macro_rules! engines {
    ($($engine:ident: $name:literal, $kind:ident, $completions:ident;)*; $($group:ident::{$($scenario:ident),* $(,)?};)*) => {
        engines!(@each [$($engine: $name, $kind, $completions;)*] { $($group::{$($scenario),*};)* });
    };
    (@each [] $scenarios:tt) => {};
    (@each [$engine:ident: $name:literal, $kind:ident, $completions:ident; $($rest:tt)*] $scenarios:tt) => {
        mod $engine {
            const CASE: crate::stage::Case = crate::stage::Case {
                name: $name,
                kind: engine::EngineKind::$kind,
                send_completions: engine::SendCompletions::$completions,
            };
            engines!(@tests $scenarios);
        }
        engines!(@each [$($rest)*] $scenarios);
    };
    (@tests { $($group:ident::{$($scenario:ident),*};)* }) => {
        $(mod $group {
            $(
                #[test]
                fn $scenario() {
                    if super::CASE.works() {
                        crate::$group::$scenario(&super::CASE);
                    }
                }
            )*
        })*
    };
}

engines! {
    epoll: "epoll", Epoll, Auto;
    tokio_uring: "tokio-uring", TokioUring, Auto;
    uring: "uring", Uring, Auto;
    uring_all: "uring, all sends with completions", Uring, All;
    ;
    bytes::{
        echo_comes_back_and_is_counted,
        one_byte_at_a_time,
        sizes_around_every_edge,
        sixteen_mebibytes,
        many_segments_of_every_kind,
        output_of_a_turn_keeps_its_order,
        random_cuts_keep_the_order,
        drops_a_client_that_never_reads,
        a_slow_reader_gets_everything,
        a_finished_stall_leaves_no_timer,
        held_back_segments_keep_their_order,
        two_workers_talk_to_each_other,
        spinning_changes_nothing,
    };
    ends::{
        nothing_sent_at_all,
        the_client_half_closes_and_still_reads,
        half_open_until_the_handler_closes,
        the_server_half_closes_and_discards,
        reset_by_the_peer,
        reset_while_bytes_wait,
        abort_in_the_first_output,
        abort_drops_what_is_unsent,
        flush_sends_everything,
        flush_after_eof_ends_at_once,
        finish_sends_everything_and_does_not_wait,
        finish_after_eof_ends_as_closed_by_the_peer,
        finish_needs_no_receive,
        bytes_after_a_finish_are_answered_by_a_reset,
        a_finish_to_a_peer_that_does_not_read_is_bounded,
        finish_starts_no_thread_of_the_kernel,
        lingering_is_bounded_in_time,
        an_abort_ends_what_closes_gently,
        lingering_is_bounded_in_bytes,
        closing_ends_all_calls,
        pause_holds_bytes_and_end_back,
        reset_while_paused,
        reset_after_a_pause,
        pauses_between_all_calls_keep_the_order,
        paused_from_the_first_call,
        paused_between_two_messages,
        a_drain_sends_a_last_message_to_all,
        stop_closes_everything,
        stop_in_start,
        a_panic_of_the_handler_is_not_swallowed,
    };
    timing::{
        deadlines_fire_once_and_never_early,
        a_deadline_moves_and_is_unset,
        a_turn_handles_few_of_many_deadlines,
        alarms_fire_once_and_never_early,
        wakes_are_joined_and_never_lost,
        one_clock_read_for_a_turn,
    };
    connect::{
        connects_and_talks,
        connects_from_a_source_address,
        connects_from_a_range_of_ports,
        refused,
        times_out,
        too_many_connects,
        reconnects_from_the_failure,
        a_failed_connect_frees_its_slot,
        an_unroutable_source_fails_later,
    };
    contract::{
        a_turn_calls_events_deadline_alarm_woken_turn_end,
        output_of_all_calls_keeps_the_order_of_the_calls,
        output_of_every_call_leaves_without_another_event,
        output_of_opened_comes_before_all_other,
        a_turn_end_follows_every_call,
        a_plain_connection_is_never_secured,
        a_handler_may_change_the_bytes_that_it_echoes,
        drained_is_not_called_without_a_backlog,
        drained_comes_once_when_the_backlog_is_gone,
        closed_comes_once_and_never_within_another_call,
        an_alarm_in_the_past_fires_in_the_next_turn,
        wakes_of_one_call_are_reported_together,
        the_outcome_of_a_connect_comes_in_a_later_turn,
        with_finds_no_connection_that_is_closing_or_gone,
        an_abort_discards_the_output_of_a_draining_connection,
        load_counts_connections_pauses_and_unsent_bytes,
        unsent_counts_the_output_of_the_turn,
        a_given_buffer_returns_to_the_pool_when_it_is_sent,
        the_clock_goes_on_while_the_time_of_a_turn_stays,
    };
    congestion::{
        both_ends_are_set,
    };
    limits::{
        listening_off_and_on,
        the_table_is_full_and_recovers,
        a_thousand_connections,
        slots_are_used_again_under_new_ids,
        slots_used_again_keep_bytes_apart,
        a_blocking_listener_does_not_stop_the_worker,
        accepted_peers_have_their_addresses,
    };
    spread::{
        one_by_one_they_differ_by_one_at_most,
        all_at_once_they_differ_by_one_at_most,
        churn_keeps_them_within_a_tenth,
        a_worker_without_room_gets_nothing,
        a_full_worker_keeps_others_waiting_and_loses_none,
        a_worker_that_does_not_listen_gets_nothing,
        a_worker_that_has_ended_gets_nothing,
        workers_that_end_together_close_everything,
        a_connection_that_moves_has_its_peers_address,
        bytes_before_the_move_arrive,
        tls_works_on_a_connection_that_moves,
        slots_of_moved_connections_are_used_again,
    };
    descriptors::{
        as_many_connections_as_descriptors_allow,
        connects_without_descriptors_fail_and_recover,
        a_table_beyond_the_limit_is_refused_or_starves_gently,
        little_locked_memory_as_an_ordinary_user,
    };
    tls::{
        echo_in_both_versions,
        records_byte_by_byte,
        a_reply_of_every_kind_keeps_its_order,
        sixteen_mebibytes_between_two_workers,
        a_slow_reader_gets_every_record,
        plain_and_tls_side_by_side,
        a_client_that_does_not_trust_says_so,
        a_plain_server_is_reported,
        a_plain_client_is_answered,
        the_deadline_covers_the_handshake,
        refused_before_the_handshake,
        a_gentle_close_is_announced,
        reset_in_the_handshake,
        messages_do_not_wait_for_handshakes,
        a_connection_may_end_while_its_handshake_is_away,
        a_drain_sends_a_last_message_in_tls,
        serves_independent_tls_clients,
        renegotiation_is_refused,
    };
    scarcity::{
        a_ring_of_two_buffers,
        buffers_of_one_byte,
        a_tiny_completion_queue,
        one_flooder_beside_two_hundred,
        one_flooder_of_large_receives_beside_two_hundred,
        large_messages_of_all_and_then_of_each_alone,
    };
}
