"""What differs between the paths of the API."""

from services.gateway.core.endpoints import ENDPOINTS


def test_only_streams_of_chunks_take_stream_options() -> None:
    assert [path for path, endpoint in ENDPOINTS.items() if endpoint.takes_stream_options] == [
        "/v1/chat/completions",
        "/v1/completions",
    ]


def test_only_a_response_object_ends_its_stream_without_done() -> None:
    assert [path for path, endpoint in ENDPOINTS.items() if not endpoint.ends_with_done] == ["/v1/responses"]
