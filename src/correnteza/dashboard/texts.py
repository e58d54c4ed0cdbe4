"""All that the pages say, in each language.

Invariant: a text stands in all languages or in none; what the services say themselves (reasons, events) is theirs.
"""

from __future__ import annotations

LANGUAGES = ("en", "pt")
NAMES = {"en": "English", "pt": "Português"}

TEXTS: dict[str, tuple[str, str]] = {
    # The frame
    "skip": ("Skip to the content", "Ir para o conteúdo"),
    "pages": ("Pages", "Páginas"),
    "language": ("Language", "Idioma"),
    "theme": ("Colours", "Cores"),
    "auto": ("Auto", "Auto"),
    "light": ("Light", "Claro"),
    "dark": ("Dark", "Escuro"),
    "flow": ("Flow", "Fluxo"),
    "model": ("Model", "Modelo"),
    "drift": ("Drift", "Mudanças"),
    "registry": ("Registry", "Registro"),
    "try": ("Try it", "Experimente"),
    "data": ("Data", "Dados"),
    "rate": ("Rate", "Ritmo"),
    "all_ready": ("All services are ready", "Todos os serviços prontos"),
    "some_ready": ("{ready} of {all} services are ready", "{ready} de {all} serviços prontos"),
    "ago": ("{span} ago", "há {span}"),
    "yes": ("Yes", "Sim"),
    "no": ("No", "Não"),
    "cancel": ("Cancel", "Cancelar"),
    "close": ("Close", "Fechar"),
    "done": ("Done", "Feito"),
    "failed": ("That did not work: {reason}", "Não funcionou: {reason}"),
    "waiting": ("Waiting for the first answer of the {service}", "Aguardando a primeira resposta do {service}"),
    "unit_rows_s": ("rows/s", "linhas/s"),
    "unit_rows": ("rows", "linhas"),
    "rows_away": ("{rows} rows", "{rows} linhas"),
    # Services and their states
    "generator": ("Generator", "Gerador"),
    "normalizer": ("Normalizer", "Normalizador"),
    "trainer": ("Trainer", "Treinador"),
    "consumer": ("Consumer", "Consumidor"),
    "generator_does": ("makes or receives records", "cria ou recebe registros"),
    "normalizer_does": ("checks, encodes, standardises", "verifica, codifica, padroniza"),
    "trainer_does": ("tests, learns, predicts", "testa, aprende, prevê"),
    "consumer_does": ("asks, compares with the truth", "pergunta, compara com a verdade"),
    "state_ready": ("ready", "pronto"),
    "state_running": ("running", "em execução"),
    "state_starting": ("starting", "iniciando"),
    "state_waiting": ("waiting", "aguardando"),
    "state_failed": ("failed", "falhou"),
    "state_stopped": ("stopped", "parado"),
    "state_down": ("down", "fora do ar"),
    # Flow
    "flow_title": ("The stream, now", "A corrente, agora"),
    "tile_rate": ("Records", "Registros"),
    "tile_rate_note": ("{rows} so far", "{rows} até agora"),
    "tile_error": ("Mean absolute error", "Erro absoluto médio"),
    "tile_error_note": ("{skill} below the naive baseline", "{skill} abaixo da previsão ingênua"),
    "tile_error_worse": ("{skill} above the naive baseline", "{skill} acima da previsão ingênua"),
    "tile_version": ("Model in service", "Modelo em serviço"),
    "tile_version_none": ("no model yet", "ainda sem modelo"),
    "tile_version_note": ("since {since}", "desde {since}"),
    "tile_coverage": ("Interval coverage", "Cobertura do intervalo"),
    "tile_coverage_note": ("should be {level}", "deveria ser {level}"),
    "version_n": ("version {version}", "versão {version}"),
    "services": ("Services", "Serviços"),
    "rows_total": ("rows", "linhas"),
    "lag": ("lag", "atraso"),
    "rejected": ("rejected", "rejeitados"),
    "rate_trail": ("rows per second over the last two minutes", "linhas por segundo nos últimos dois minutos"),
    "error_recent": ("Error over the last rows", "Erro nas últimas linhas"),
    "happened": ("What changed", "O que mudou"),
    "nothing_yet": ("Nothing yet", "Nada ainda"),
}
