"""Operations that platforms compute in different ways; `choose` picks a way for each."""
